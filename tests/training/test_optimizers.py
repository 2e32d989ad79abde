"""`train.optimizer`: what is valid, what it makes, and that the default changes no identity."""

import subprocess
import sys
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from elth_dist import registry
from elth_dist.training.loop import _optimizer
from elth_dist.training.masked import Masked, MaskedAdamW, MaskedSGD
from elth_dist.training.optimizers import Optimizer
from elth_dist.training.optimizers.adamw import AdamW
from elth_dist.training.optimizers.sgd import Sgd
from elth_dist.training.options import TrainOptions


def test_a_name_and_a_name_with_options_are_valid() -> None:
    assert TrainOptions().optimizer == Sgd() == TrainOptions.model_validate({"optimizer": "sgd"}).optimizer
    assert TrainOptions.model_validate({"optimizer": "adamw"}).optimizer == AdamW()
    written = TrainOptions.model_validate({"optimizer": {"name": "adamw", "betas": [0.9, 0.95]}})
    assert written.optimizer == AdamW(betas=(0.9, 0.95))
    assert TrainOptions.model_validate(written.model_dump(mode="json")) == written


def test_identities_know_of_the_optimizer_only_what_is_no_default() -> None:
    assert TrainOptions().identity() == TrainOptions(optimizer=Sgd()).identity() == {}
    assert TrainOptions(optimizer=AdamW()).identity() == {"optimizer": {"name": "adamw"}}
    adamw = AdamW(betas=(0.9, 0.95), eps=1e-8)
    assert TrainOptions(optimizer=adamw).identity() == {"optimizer": {"name": "adamw", "betas": [0.9, 0.95]}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean adamw?; valid are adamw, sgd"),
        ({"optimizer": {"betas": [0.9, 0.95]}}, "is required; valid are adamw, sgd"),
        ({"optimizer": "adamw", "momentum": 0.8}, "momentum 0.8: adamw has none"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov True: adamw has none"),
        ({"optimizer": {"name": "adamw", "eps": 0}}, "greater than or equal to 0.00000000000000000001"),
        ({"optimizer": {"name": "adamw", "betas": [0.9, 1]}}, "less than 1"),
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.9]}}, "Extra inputs are not permitted"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs momentum above 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        TrainOptions.model_validate(options)
    assert message in error.value.errors()[0]["msg"]


def test_defaults_of_sgd_written_out_are_no_conflict() -> None:
    assert TrainOptions.model_validate({"optimizer": "adamw", "momentum": 0.9, "nesterov": False}).momentum == 0.9


class Encoder(nn.Module):
    """As in a vision transformer, by kinds of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 5, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)
        self.stem = nn.Conv2d(3, 4, 2, bias=False)
        self.bn = nn.BatchNorm2d(4)


@pytest.mark.parametrize(("options", "kind"), [(Sgd(), MaskedSGD), (AdamW(betas=(0.8, 0.9), eps=1e-6), MaskedAdamW)])
def test_recipe_reaches_the_torch_optimizer(options: Optimizer, kind: type[Masked]) -> None:
    train = TrainOptions(optimizer=options, lr=0.2, lr_batch=256, global_batch=128, weight_decay=0.05)
    optimizer = _optimizer(Encoder(), train)
    assert type(optimizer) is kind
    [group] = optimizer.param_groups
    assert group["fused"]
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.05)
    if isinstance(options, AdamW):
        assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6)
    else:
        assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.9, False, 0)


@pytest.mark.parametrize("options", [Sgd(), AdamW()])
def test_decay_of_weights_leaves_biases_and_norms_alone(options: Optimizer) -> None:
    model = Encoder()
    names = {parameter: name for name, parameter in model.named_parameters()}
    train = TrainOptions(optimizer=options, weight_decay=0.05, decay="weights")
    decayed, others = _optimizer(model, train).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert [names[p] for p in decayed["params"]] == ["position", "head.weight", "stem.weight"]
    assert [names[p] for p in others["params"]] == ["norm.weight", "norm.bias", "head.bias", "bn.weight", "bn.bias"]


def test_options_know_no_torch() -> None:
    code = (
        "import sys, elth_dist.training.options as o; o.TrainOptions(optimizer='adamw'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


class FromElsewhere(Optimizer):
    """As a plugin would write it: options, and the torch class in the same file."""

    name: Literal["test_adam"] = "test_adam"
    label: ClassVar[str] = "Adam"

    def create(self, groups: Any, *, lr: float, weight_decay: float, train: TrainOptions) -> Any:
        class MaskedAdam(Masked, torch.optim.Adam):
            slots = ("exp_avg", "exp_avg_sq")
            counters = ("step",)

        return MaskedAdam(groups, lr=lr, weight_decay=weight_decay)


def test_a_kind_from_elsewhere_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.optimizers, "_kinds", {**registry.optimizers})
    registry.optimizers.add(FromElsewhere)
    train = TrainOptions.model_validate({"optimizer": "test_adam", "weight_decay": 0.1})
    assert train.identity()["optimizer"]["name"] == "test_adam"
    weight = nn.Parameter(torch.ones(6))
    optimizer = train.optimizer.create([{"params": [weight]}], lr=0.1, weight_decay=0.1, train=train)
    mask: Tensor = torch.arange(6) % 2 == 0
    optimizer.set_masks({weight: mask})
    for _ in range(3):
        weight.grad = torch.ones(6)
        optimizer.step()
    assert optimizer.not_zero() == ([], {})
    assert weight[mask].count_nonzero() == 3
