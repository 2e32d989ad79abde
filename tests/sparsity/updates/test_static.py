import pytest
import torch
from torch import nn

from elth_dist.sparsity.masked_weights import WholeWeights
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.updates import Updater
from elth_dist.sparsity.updates.static import StaticMask
from elth_dist.training.masked import MaskedSGD


def training(momentum: float = 0.9) -> tuple[nn.Module, MaskedSGD, StaticMask]:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    generator = torch.Generator().manual_seed(0)
    weights = prunable_weights(model)
    masks = Masks({name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in weights.items()})
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-2)
    update = StaticMask(masks)
    update.begin(WholeWeights(weights, optimizer))
    return model, optimizer, update


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_static_masks_hold_over_a_training_as_the_loop_runs_it(momentum: float) -> None:
    model, optimizer, static = training(momentum)
    update: Updater = static
    before = update.masks.hashes()
    for step in range(5):
        optimizer.zero_grad()
        with update.computing():
            model(torch.randn(4, 2, 4, 4)).square().sum().backward()
        assert not update.before_step(step, True)
        optimizer.step()
        update.after_step(step, True)
        update.check()
    update.finish()
    assert update.masks.hashes() == before
    assert update.state_dict() == {}
    update.load_state_dict({})


def test_a_pruned_weight_that_is_not_zero_is_named() -> None:
    model, _, update = training()
    with torch.no_grad():
        model[2].weight.view(-1)[~update.masks["2.weight"].view(-1)] = 1e-45
    with pytest.raises(AssertionError, match=r"weights are not zero in 2\.weight$"):
        update.finish()


def test_momentum_of_a_pruned_weight_that_is_not_zero_is_named() -> None:
    model, optimizer, update = training()
    optimizer.state[model[0].weight]["momentum_buffer"].fill_(float("nan"))
    with pytest.raises(AssertionError, match=r"momentum_buffer .* in 0\.weight$"):
        update.check()


def test_a_check_before_the_beginning_and_a_foreign_state_are_errors() -> None:
    update = StaticMask(Masks.dense({"w": (2,)}))
    with pytest.raises(AssertionError, match="begin"):
        update.check()
    with pytest.raises(AssertionError, match="drop_rate"):
        update.load_state_dict({"drop_rate": 0.3})
