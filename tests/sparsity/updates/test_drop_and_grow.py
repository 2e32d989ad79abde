"""RigL, SET and SNFS: what is dropped, what grows, and what becomes of weights and momentum."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.drop_and_grow import Replacement, drop_and_grow, random_masks
from tests.helpers.updates import STEPS, Training

GROWING = ["rigl", "set", "snfs"]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    """A mask, weights and growth scores with many ties, and how many to replace."""
    size = draw(st.integers(2, 40))
    values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0])
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    weight = torch.tensor(draw(st.lists(values, min_size=size, max_size=size)))
    growth = torch.tensor(draw(st.lists(values, min_size=size, max_size=size))).abs()
    return mask, weight, growth, draw(st.integers(0, int(mask.sum())))


@given(layers())
def test_drop_and_grow_is_two_sorts_by_score_and_position(layer: tuple[Tensor, Tensor, Tensor, int]) -> None:
    mask, weight, growth, count = layer
    active = sorted((abs(weight[i].item()), i) for i in range(len(mask)) if mask[i])
    kept = {i for _, i in active[count:]}
    free = sorted((-growth[i].item(), i) for i in range(len(mask)) if i not in kept)
    expected = kept | {i for _, i in free[:count]}
    made = drop_and_grow(mask, weight, growth, count)
    assert set(made.nonzero().flatten().tolist()) == expected
    assert made.sum() == mask.sum()


def test_the_number_that_is_replaced_is_rounded_down() -> None:
    replacement = Replacement(delta_t=10, alpha=0.3, t_end=100)
    assert [replacement.count(0, kept) for kept in (0, 3, 4, 9, 10, 99)] == [0, 0, 1, 2, 3, 29]
    assert replacement.count(50, 100) == 15
    assert replacement.count(100, 10**9) == 0
    assert [step for step in range(131) if step in replacement.steps] == list(range(0, 100, 10))


def test_random_masks_have_exact_counts_and_follow_their_seed_alone() -> None:
    dense = Masks.dense({"a": (5, 3), "b": (70,), "c": (4,)})
    counts = {"a": 3, "b": 8, "c": 4}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made = random_masks(dense, counts, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert random_masks(dense, counts, 7) == made
    assert random_masks(dense, counts, 8) != made
    assert made.counts == counts


@pytest.mark.parametrize("name", GROWING)
def test_density_is_constant_and_momentum_masked_at_every_step(name: str) -> None:
    training = Training(Ranks(), name).begin()
    counts, seen = training.update.masks.counts, set()
    for step in range(STEPS):
        training.step(step)
        training.update.check()
        assert training.update.masks.counts == counts
        seen.add(tuple(training.update.masks.hashes().values()))
    training.update.finish()
    assert len(seen) >= 3, "masks have changed"


def test_uniform_keeps_the_first_layer_dense_and_no_update_touches_it() -> None:
    training = Training(Ranks(), "rigl").begin()
    for step in range(STEPS):
        training.step(step)
        densities = training.update.masks.densities
        assert densities["0.weight"] == 1.0
        assert densities["2.weight"] == pytest.approx(0.3, abs=0.002)


@pytest.mark.parametrize("name", GROWING)
def test_grown_weights_and_their_momentum_are_zero_and_the_others_keep_theirs(name: str) -> None:
    training = Training(Ranks(), name).begin()
    for step in range(4):
        training.step(step)
    finite = training.gradients(4)
    before = training.snapshot()
    skipped = training.apply(4, finite)
    after = training.snapshot()
    assert skipped == (name == "rigl")
    grown_somewhere = False
    for layer in before.masks:
        was, now = before.masks[layer], after.masks[layer]
        grown = now & ~was
        grown_somewhere |= bool(grown.any())
        for tensors in (after.weights, after.momentum):
            assert (tensors[layer][grown] == 0).all()
            assert (tensors[layer][~now] == 0).all()
        if name == "rigl":  # the update takes the step's place: whatever stays, regrown weights too, stays as it is
            for old, new in ((before.weights, after.weights), (before.momentum, after.momentum)):
                assert torch.equal(old[layer][was & now], new[layer][was & now])
    assert grown_somewhere


def test_rigl_drops_by_magnitude_and_grows_by_the_dense_gradient() -> None:
    training = Training(Ranks(), "rigl").begin()
    for step in range(4):
        training.step(step)
    finite = training.gradients(4)
    before = training.snapshot()
    gradients = {layer: weight.grad.clone() for layer, weight in training.weights.items() if weight.grad is not None}
    training.apply(4, finite)
    layer = "2.weight"
    was, now = before.masks[layer], training.update.masks[layer]
    count = Replacement(4, 0.3, 10).count(4, int(was.sum()))
    assert count > 3
    magnitude = before.weights[layer].abs()
    dropped_first = torch.zeros_like(was).flatten()
    dropped_first[magnitude.masked_fill(~was, torch.inf).flatten().topk(count, largest=False).indices] = True
    free = ~was | dropped_first.view(was.shape)
    best = gradients[layer].abs().masked_fill(~free, -1).flatten().topk(count).indices
    expected = (was & ~free).flatten()
    expected[best] = True
    assert torch.equal(now, expected.view(was.shape))


def test_a_just_dropped_weight_that_grows_again_keeps_value_and_momentum() -> None:
    training = Training(Ranks(), "rigl").begin()
    for step in range(4):
        training.step(step)
    finite = training.gradients(4)
    layer = "2.weight"
    weight = training.weights[layer]
    mask = training.update.masks[layer]
    place = tuple(mask.nonzero()[5].tolist())
    with torch.no_grad():
        weight[place] = 1e-30  # is dropped ...
    assert weight.grad is not None
    weight.grad[place] = 1e3  # ... and grows again
    momentum = training.engine.optimizer.state[weight]["momentum_buffer"][place].item()
    assert momentum != 0
    training.apply(4, finite)
    assert training.update.masks[layer][place]
    assert weight[place].item() == pytest.approx(1e-30)
    assert training.engine.optimizer.state[weight]["momentum_buffer"][place].item() == momentum


def test_snfs_grows_by_the_running_mean_of_dense_gradients() -> None:
    training = Training(Ranks(), "snfs", momentum=0.8).begin()
    layer = "2.weight"
    mean = torch.zeros_like(training.weights[layer])
    for step in range(5):
        finite = training.gradients(step)
        gradient = training.weights[layer].grad
        assert gradient is not None
        mean = 0.8 * mean + 0.2 * gradient
        training.apply(step, finite)
    torch.testing.assert_close(training.update.state_dict()["mean"][layer], mean)


def test_random_growth_is_a_function_of_seed_step_and_layer() -> None:
    def masks(global_seed: int) -> list[Any]:
        torch.manual_seed(global_seed)
        training = Training(Ranks(), "set").begin()
        found = []
        for step in range(STEPS):
            training.step(step)
            torch.rand(global_seed)  # what augmentation may draw
            found.append(training.update.masks.hashes())
        return found

    assert masks(1) == masks(2)


def test_which_steps_take_dense_gradients() -> None:
    found = {}
    for name in GROWING:
        training = Training(Ranks(), name, poisoned=4).begin()
        found[name] = []
        for step in range(STEPS):
            finite = training.gradients(step)
            skip = training.update.before_step(step, finite)
            if training.update.dense_gradient(step):
                found[name].append(step)
            if skip:
                training.engine.optimizer.skip_next()
            training.engine.step()
            training.update.after_step(step, finite)
    assert found == {"rigl": [0, 4, 5, 8], "set": [], "snfs": list(range(STEPS))}


@pytest.mark.parametrize("name", GROWING)
def test_no_update_comes_at_t_end(name: str) -> None:
    """RigL, algorithm 1: t < T_end. At t_end, where f(t) is 0, RigL would spend a step on nothing."""
    training = Training(Ranks(), name, t_end="8it").begin()
    skipped, changed = [], []
    for step in range(STEPS):
        before = training.update.masks
        skipped += [step] if training.step(step) else []
        changed += [step] if training.update.masks is not before else []
    assert skipped == ([0, 4] if name == "rigl" else [])
    assert changed == [0, 4]


@pytest.mark.parametrize("name", GROWING)
def test_an_update_postponed_to_t_end_is_left_out(name: str) -> None:
    training = Training(Ranks(), name, poisoned=8, t_end="9it").begin()
    for step in range(9):
        assert training.step(step) == (name == "rigl" and step in (0, 4))
    before = training.update.masks
    for step in range(9, STEPS):
        finite = training.gradients(step)
        assert not training.apply(step, finite)
        assert training.update.dense_gradient(step) == (name == "snfs")
    assert training.update.masks is before
    assert not training.update.state_dict()["deferred"]


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("kept", [240, 301, 444])
def test_a_tickets_number_of_weights_is_kept_at_every_step(distribution: str, kept: int) -> None:
    training = Training(Ranks(), "rigl", distribution=distribution, kept=kept).begin()
    for step in range(STEPS):
        training.step(step)
        assert training.update.masks.kept == kept
    assert training.update.masks.densities["0.weight"] == 1.0 or distribution == "erk"
