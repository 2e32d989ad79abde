"""What every engine promises (engines/protocol.py), on real ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elth_dist.engines.create import create_engine
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import Engine
from elth_dist.errors import UserError
from elth_dist.models.build import build_model
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.training.masked_sgd import MaskedSGD
from tests.helpers.ranks import run_ranks

ENGINES: list[dict[str, Any]] = [{"name": "ddp"}]
CLASSES, SIZE, GLOBAL_BATCH = 5, 8, 8


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(GLOBAL_BATCH, 3, SIZE, SIZE, generator=generator),
            torch.randint(0, CLASSES, (GLOBAL_BATCH,), generator=generator),
        )
        for _ in range(count)
    ]


def without_batchnorm() -> nn.Module:
    """A net whose gradient is a plain mean over samples, so that any split of the batch gives the same."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
    )


def open_engine(
    ranks: Ranks, options: dict[str, Any], model: nn.Module, *, accumulate: int = 1, masked: bool = False, **more: Any
) -> Engine:
    torch.set_num_threads(1)
    engine = create_engine(EngineOptions(**options), ranks, **more)

    def optimizer(placed: nn.Module) -> MaskedSGD:
        made = MaskedSGD(placed.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        if masked:
            generator = torch.Generator().manual_seed(11)
            weights = prunable_weights(placed)
            made.set_masks({w: torch.rand(w.shape, generator=generator) < 0.3 for w in weights.values()})
        return made

    engine.prepare(model, optimizer, (GLOBAL_BATCH // (ranks.world_size * accumulate), 3, SIZE, SIZE))
    return engine


Steps = list[tuple[torch.Tensor, torch.Tensor]]


def train(engine: Engine, ranks: Ranks, steps: Steps, accumulate: int = 1) -> list[Any]:
    """Each step on this rank's share of the global batch; returns (applied, gradient norm) of each."""
    outcomes = []
    for images, labels in steps:
        share = GLOBAL_BATCH // ranks.world_size
        own = slice(ranks.rank * share, (ranks.rank + 1) * share)
        micro = zip(images[own].chunk(accumulate), labels[own].chunk(accumulate), strict=True)
        for number, (x, y) in enumerate(micro):
            with engine.micro_step(last=number == accumulate - 1):
                loss = F.cross_entropy(engine.forward(x.to(memory_format=torch.channels_last)), y)
                engine.backward(loss / accumulate)
        finite = engine.finish_gradients()
        outcome = engine.step()
        assert torch.equal(finite, outcome.applied)
        outcomes.append((bool(outcome.applied), float(outcome.grad_norm)))
    return outcomes


def flat(engine: Engine) -> list[float]:
    values: list[float] = torch.cat([t.double().flatten() for t in engine.weights().values()]).tolist()
    return values


def steps_on_ranks(ranks: Ranks, options: dict[str, Any], accumulate: int) -> Any:
    engine = open_engine(ranks, options, without_batchnorm(), accumulate=accumulate)
    outcomes = train(engine, ranks, batches(4), accumulate)
    return {"weights": flat(engine), "outcomes": outcomes}


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_ranks_and_accumulation_give_the_step_of_the_whole_batch(options: dict[str, Any]) -> None:
    alone = steps_on_ranks(Ranks(), {"name": "ddp"}, 1)
    reference = without_batchnorm()
    sgd = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for images, labels in batches(4):
        sgd.zero_grad()
        F.cross_entropy(reference(images), labels).backward()
        sgd.step()
    expected = torch.cat([t.double().flatten() for t in reference.state_dict().values()])
    torch.testing.assert_close(torch.tensor(alone["weights"]).double(), expected, rtol=1e-5, atol=1e-6)
    for world_size, accumulate in ((1, 4), (2, 1), (2, 2), (4, 2)):
        results = run_ranks(steps_on_ranks, world_size, args=[options, accumulate])
        for result in results:
            assert result.value["weights"] == results[0].value["weights"], "ranks differ"
            torch.testing.assert_close(torch.tensor(result.value["weights"]).double(), expected, rtol=1e-5, atol=1e-6)
            for (applied, norm), (_, alone_norm) in zip(result.value["outcomes"], alone["outcomes"], strict=True):
                assert applied
                assert norm == pytest.approx(alone_norm, rel=1e-4)


def non_finite_on_one_rank(ranks: Ranks, options: dict[str, Any], precision: str) -> Any:
    engine = open_engine(ranks, options, without_batchnorm(), masked=True, precision=precision)
    [good, bad, after] = batches(3)
    train(engine, ranks, [good])
    before = flat(engine)
    momentum = [state["momentum_buffer"].clone() for state in engine.optimizer.state.values()]
    bad[0][0] = float("inf")  # a sample of rank 0's
    [(applied, _)] = train(engine, ranks, [bad])
    unchanged = flat(engine) == before and all(
        torch.equal(old, state["momentum_buffer"])
        for old, state in zip(momentum, engine.optimizer.state.values(), strict=True)
    )
    [(recovered, _)] = train(engine, ranks, [after])
    return {"applied": applied, "unchanged": unchanged, "recovered": recovered, "weights": flat(engine)}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_non_finite_gradient_on_one_rank_stops_the_step_on_all(options: dict[str, Any], precision: str) -> None:
    results = run_ranks(non_finite_on_one_rank, 2, args=[options, precision])
    for result in results:
        assert not result.value["applied"]
        assert result.value["unchanged"]
        assert result.value["weights"] == results[0].value["weights"]
        assert result.value["recovered"]


def resumed(ranks: Ranks, options: dict[str, Any], folder: str, precision: str) -> Any:
    """Six steps in one go, and three + three through save() and load(): everything that may differ, differing."""
    first, rest = batches(6)[:3], batches(6)[3:]
    model = build_model("resnet8_cifar", CLASSES, seed=1)
    whole = open_engine(ranks, options, model, masked=True, precision=precision)
    train(whole, ranks, first)
    whole.save(Path(folder))
    outcomes = train(whole, ranks, rest)
    other = open_engine(ranks, options, build_model("resnet8_cifar", CLASSES, seed=2), masked=True, precision=precision)
    ranks.barrier()
    other.load(Path(folder))
    return {"same": train(other, ranks, rest) == outcomes and flat(other) == flat(whole), "weights": flat(whole)}


@pytest.mark.parametrize(
    ("world_size", "precision"), [(1, "fp32"), (1, "fp16"), (2, "fp32"), (2, "bf16"), (3, "fp32"), (4, "fp32")]
)
@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_training_continues_bit_for_bit_from_saved_state(
    options: dict[str, Any], world_size: int, precision: str, tmp_path: Path
) -> None:
    for result in run_ranks(resumed, world_size, args=[options, str(tmp_path), precision]):
        assert result.value["same"]


def pruned_stay_zero(ranks: Ranks, options: dict[str, Any]) -> Any:
    model = build_model("resnet8_cifar", CLASSES, seed=1)
    engine = open_engine(ranks, options, model, masked=True)
    weights = prunable_weights(engine.model)
    masks = Masks({name: weight != 0 for name, weight in weights.items()})
    train(engine, ranks, batches(5))
    momentum = {name: engine.optimizer.state[weight]["momentum_buffer"] for name, weight in weights.items()}
    return [masks.density, masks.check_zero(dict(engine.weights())), masks.check_zero(momentum)]


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_pruned_weights_and_their_momentum_stay_exactly_zero(options: dict[str, Any]) -> None:
    for result in run_ranks(pruned_stay_zero, 2, args=[options]):
        density, weights, momentum = result.value
        assert 0.25 < density < 0.35
        assert weights == []
        assert momentum == []


def batchnorm_statistics(ranks: Ranks, options: dict[str, Any]) -> Any:
    engine = open_engine(ranks, options, build_model("resnet8_cifar", CLASSES, seed=1))
    fresh = float(engine.weights()["bn1.running_mean"].abs().sum())
    train(engine, ranks, batches(2))
    own = engine.weights()["bn1.running_mean"].clone()
    engine.average_batchnorm()
    return [fresh, own.tolist(), engine.weights()["bn1.running_mean"].tolist()]


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_batchnorm_statistics_are_each_ranks_own_until_averaged(options: dict[str, Any]) -> None:
    one, other = (result.value for result in run_ranks(batchnorm_statistics, 2, args=[options]))
    assert one[0] == other[0] == 0.0, "preparing the engine must leave no trace in the statistics"
    assert one[1] != other[1]
    assert one[2] == other[2]
    mean = (torch.tensor(one[1]) + torch.tensor(other[1])) / 2
    torch.testing.assert_close(torch.tensor(one[2]), mean)


def synchronised(ranks: Ranks, options: dict[str, Any]) -> Any:
    try:
        open_engine(ranks, options, build_model("resnet8_cifar", CLASSES, seed=1), sync_bn=True)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_sync_bn_on_cpus_is_refused_in_one_line(options: dict[str, Any]) -> None:
    for result in run_ranks(synchronised, 2, args=[options]):
        assert result.value.startswith("train.sync_bn: needs GPUs")


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_compiled_network_trains_like_the_plain_one(options: dict[str, Any]) -> None:
    plain = open_engine(Ranks(), options, without_batchnorm())
    compiled = open_engine(Ranks(), options, without_batchnorm(), compile_model=True)
    train(plain, Ranks(), batches(2))
    train(compiled, Ranks(), batches(2))
    torch.testing.assert_close(torch.tensor(flat(compiled)), torch.tensor(flat(plain)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_lower_precision_computes_in_it_and_keeps_weights_in_fp32(options: dict[str, Any], precision: str) -> None:
    engine = open_engine(Ranks(), options, without_batchnorm(), precision=precision)
    exact = open_engine(Ranks(), options, without_batchnorm())
    images = batches(1)[0][0]
    engine.model.eval()
    exact.model.eval()
    logits = engine.forward(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact.forward(images))
    torch.testing.assert_close(logits, exact.forward(images), rtol=0.05, atol=0.05)
    assert {t.dtype for t in engine.weights().values()} == {torch.float32}
