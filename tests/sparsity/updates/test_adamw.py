"""Mask updates over AdamW, which has two moments for each weight, and counts."""

import pytest
import torch
from torch import Tensor, nn

from elth_dist.runtime.ranks import Ranks
from elth_dist.training.masked import MaskedAdamW
from tests.helpers.updates import STEPS, Training


def adamw(model: nn.Module) -> MaskedAdamW:
    return MaskedAdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def state_of(training: Training) -> dict[str, dict[str, Tensor]]:
    """Copies of each prunable weight and its state."""
    state = training.engine.optimizer.state
    return {
        layer: {"weight": weight.detach().clone()} | {name: slot.clone() for name, slot in state[weight].items()}
        for layer, weight in training.weights.items()
    }


@pytest.mark.parametrize("name", ["rigl", "set", "snfs", "gradual"])
def test_both_moments_are_zero_where_pruned_and_where_just_grown(name: str) -> None:
    training = Training(Ranks(), name, optimizer=adamw).begin()
    changes = grown_weights = 0
    for step in range(STEPS):
        masks, before = training.update.masks, state_of(training)
        skipped = training.step(step)
        training.update.check()
        after = state_of(training)
        changes += training.update.masks != masks
        for layer, now in training.update.masks.items():
            was = masks[layer]
            for slot in ("weight", "exp_avg", "exp_avg_sq"):
                assert after[layer][slot][~now].count_nonzero() == 0
                assert after[layer][slot][now & ~was].count_nonzero() == 0
                if skipped:
                    assert torch.equal(after[layer][slot][now & was], before[layer][slot][now & was])
            assert after[layer]["step"] == before[layer]["step"] + (not skipped)
            grown_weights += int((now & ~was).sum())
    assert changes >= 2
    assert (grown_weights > 0) == (name != "gradual")


def test_dpf_trains_all_weights_and_their_moments() -> None:
    training = Training(Ranks(), "dpf", optimizer=adamw).begin()
    for step in range(7):
        training.step(step)
        training.update.check()
    [layer, *_] = training.weights
    pruned = ~training.update.masks[layer]
    state = state_of(training)[layer]
    assert pruned.any()
    assert all(state[slot][pruned].all() for slot in ("weight", "exp_avg", "exp_avg_sq"))


def test_non_finite_step_leaves_both_moments_and_the_count() -> None:
    training = Training(Ranks(), "rigl", optimizer=adamw, poisoned=3).begin()
    for step in range(3):
        training.step(step)
    before = state_of(training)
    assert not training.step(3)
    after = state_of(training)
    for layer, state in before.items():
        assert all(torch.equal(tensor, after[layer][slot]) for slot, tensor in state.items())
