"""The formulae of the criteria, against the papers' definitions worked out by other means."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.models.build import build_model
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.criteria.base import exponential_counts
from elth_dist.sparsity.criteria.grasp import grasp_scores
from elth_dist.sparsity.criteria.random import random_scores
from elth_dist.sparsity.criteria.snip import snip_scores
from elth_dist.sparsity.criteria.synflow import synflow_scores
from elth_dist.sparsity.linearised import LinearisedNetwork
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.scores import magnitude
from elth_dist.sparsity.selection import prune_to
from elth_dist.training.gradients import GlobalBatches, mean_input_squares
from tests.helpers.ranks import run_ranks


def test_magnitude_is_the_absolute_weight_in_fp32_without_graph() -> None:
    weights = {"a": nn.Parameter(torch.tensor([-2.0, 0.5], dtype=torch.float64)), "b": torch.tensor([-0.0])}
    scores = magnitude(weights)
    assert torch.equal(scores["a"], torch.tensor([2.0, 0.5]))
    assert scores["a"].dtype == torch.float32
    assert not scores["a"].requires_grad
    assert not torch.signbit(scores["b"]).any()


def test_magnitude_leaves_the_weights_alone() -> None:
    weight = torch.tensor([-1.0])
    magnitude({"w": weight})["w"].add_(1)
    assert weight.item() == -1.0


WEIGHTS = {"a": torch.tensor([[1.0, -2.0], [0.5, 3.0]]), "b": torch.tensor([-4.0])}
SLOPES = {"a": torch.tensor([[0.5, 0.25], [-2.0, 0.0]]), "b": torch.tensor([0.5])}


def test_snip_is_the_product_up_to_one_factor() -> None:
    scores = snip_scores(WEIGHTS, SLOPES)
    assert torch.equal(scores["a"], torch.tensor([[0.25, 0.25], [0.5, 0.0]]))
    assert torch.equal(scores["b"], torch.tensor([1.0]))


def test_grasp_keeps_the_sign_unless_asked_not_to() -> None:
    scores = grasp_scores(WEIGHTS, SLOPES)
    assert torch.equal(scores["a"], torch.tensor([[0.25, -0.25], [-0.5, 0.0]]))
    assert torch.equal(scores["b"], torch.tensor([-1.0]))
    assert all(torch.equal(grasp_scores(WEIGHTS, SLOPES, absolute=True)[name], scores[name].abs()) for name in scores)
    kept = prune_to(Masks.dense({"a": (2, 2), "b": (1,)}), scores, 2)
    assert kept["a"].tolist() == [[True, False], [False, True]], "the most negative ones go"


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e15])
def test_scores_of_any_size_stay_comparable_in_fp32(scale: float) -> None:
    """GraSP's are about 1e-12 at temperature 200: an fp32 product of products would lose its smallest ones."""
    slopes = {name: slope.double() * scale * scale for name, slope in SLOPES.items()}
    scores, expected = grasp_scores(WEIGHTS, slopes), grasp_scores(WEIGHTS, SLOPES)
    assert all(torch.allclose(scores[name], expected[name], rtol=1e-6, atol=0) for name in scores)


def test_nothing_to_tell_weights_apart_is_no_error() -> None:
    scores = snip_scores(WEIGHTS, {name: torch.zeros_like(slope) for name, slope in SLOPES.items()})
    assert not any(score.any() for score in scores.values())


def test_what_is_not_finite_stays_visible() -> None:
    scores = snip_scores(WEIGHTS, {**SLOPES, "b": torch.tensor([float("nan")])})
    assert scores["b"].isnan().all()


def test_random_scores_are_seeded_locally_and_uniform() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    weights = {"a": torch.empty(20_000), "b": torch.empty(20_000)}
    scores = random_scores(weights, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(random_scores(weights, 3)["a"], scores["a"])
    assert not torch.equal(random_scores(weights, 4)["a"], scores["a"])
    assert not torch.equal(scores["a"], scores["b"])
    assert scores["a"].mean().item() == pytest.approx(0.5, abs=0.02)


# ----------------------------------------------------------------------------------------------------- SynFlow


def synflow(model: nn.Module, image_size: int) -> Callable[[Masks], dict[str, Tensor]]:
    """SynFlow's scores as a function of the masks."""
    network = LinearisedNetwork(model, image_size)
    return lambda masks: synflow_scores(*network.gradients(masks))


def chain() -> nn.Module:
    """Three linear layers: what flows through a weight is a sum over paths that can be written down."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False))


def test_synflow_scores_are_sums_over_paths() -> None:
    model = chain()
    first, second = (model[index].weight.detach().double().abs() for index in (1, 3))
    scores = synflow(model, 2)(Masks.dense(model))
    # a weight's share of 1' |W2| |W1| 1
    by_hand = {"1.weight": second.sum(dim=0)[:, None] * first, "3.weight": second * first.sum(dim=1)}
    largest = max(score.max() for score in by_hand.values())
    assert all(torch.allclose(scores[name], (by_hand[name] / largest).float(), rtol=1e-6) for name in scores)


def test_synflow_is_conserved_by_every_layer() -> None:
    """Tanaka et al. 2020, theorem 1: each layer's scores sum to R, whatever the masks."""
    model = chain()
    masks = prune_to(Masks.dense(model), magnitude(prunable_weights(model)), 40)
    sums = [score.double().sum().item() for score in synflow(model, 2)(masks).values()]
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)


def test_synflow_leaves_model_and_batchnorm_alone_and_needs_no_data() -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = synflow(model, 8)(Masks.dense(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(score.isfinite().all() and (score >= 0).all() for score in scores.values())
    # signs do not matter
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    flipped = synflow(model, 8)(Masks.dense(model))
    assert all(torch.equal(score, flipped[name]) for name, score in scores.items())


def test_deep_networks_do_not_overflow() -> None:
    model = build_model("resnet110_cifar", 10, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    scores = synflow(model, 4)(Masks.dense(model))
    assert max(score.max().item() for score in scores.values()) == 1.0


def test_synflow_in_steps_avoids_the_layer_collapse_of_a_single_one() -> None:
    """Tanaka et al. 2020, section 5: a wide layer takes all of a one-shot budget; iterating shares it out."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 200, bias=False), nn.Linear(200, 200, bias=False), nn.Linear(200, 2, bias=False)
    )
    score, dense = synflow(model, 2), Masks.dense(model)

    def pruned(steps: int) -> Masks:
        masks = dense
        for step in range(1, steps + 1):
            masks = prune_to(masks, score(masks), exponential_counts({"": 60}, {"": dense.total}, step, steps)[""])
        return masks

    assert pruned(1).collapsed(), "the narrow classifier takes the whole budget"
    assert pruned(100).collapsed() == []
    assert pruned(100).kept == 60


@given(
    totals=st.dictionaries(st.text(max_size=3), st.integers(1, 10**7), min_size=1, max_size=4),
    share=st.floats(0.001, 1),
    steps=st.integers(1, 120),
)
def test_synflow_counts_fall_to_exactly_what_is_asked(totals: Mapping[str, int], share: float, steps: int) -> None:
    wanted = {name: max(1, int(total * share)) for name, total in totals.items()}
    path = [dict(totals), *(exponential_counts(wanted, totals, step, steps) for step in range(1, steps + 1))]
    assert path[-1] == wanted
    for before, after in itertools.pairwise(path):
        assert all(wanted[name] <= after[name] <= before[name] for name in totals)


def test_synflow_counts_are_exponential() -> None:
    counts = [exponential_counts({"": 100}, {"": 1_000_000}, step, 4)[""] for step in range(1, 5)]
    assert counts == [100_000, 10_000, 1_000, 100]


# ------------------------------------------------------------------------------------------------- input norms


def seen_by_layers() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()


def data_of(ranks: Ranks, accumulate: int) -> GlobalBatches:
    options: dict[str, Any] = {"loader": "synthetic", "image_size": 6, "augment": "none", "flip": False}
    data = data_options(name="synthetic", num_classes=4, num_train=96, num_val=8, **options)
    dataset = open_dataset(data, ranks, default_root=Path(), dtype=torch.float32)
    return GlobalBatches(dataset, seed=5, global_batch=16, accumulate=accumulate, batches=2)


def input_squares(ranks: Ranks, accumulate: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    model = seen_by_layers()
    with data_of(ranks, accumulate) as batches:
        squares = mean_input_squares(model, prunable_weights(model), batches, ranks)
    assert all(square.dtype == torch.float64 for square in squares.values())
    return {name: square.tolist() for name, square in squares.items()}


def squares_by_hand() -> dict[str, Tensor]:
    """Loops over output channels, and over the input channels of each one's group."""
    model = seen_by_layers()
    with data_of(Ranks(), 1) as batches, torch.no_grad():
        images = torch.cat([batch.images for batch in batches]).double()
        assert len(images) == 32
        second = model[:2](images)
        last = model[:6](images)
    first = torch.zeros(4, 3, 1, 1, dtype=torch.float64)
    for out, channel in itertools.product(range(4), range(3)):
        first[out, channel, 0, 0] = sum(image[channel].square().sum() for image in images) / 32
    grouped = torch.zeros(6, 2, 1, 1, dtype=torch.float64)
    for out, channel in itertools.product(range(6), range(2)):
        group = out // 3
        grouped[out, channel, 0, 0] = sum(image[2 * group + channel].square().sum() for image in second) / 32
    linear = torch.zeros(1, 6, dtype=torch.float64)
    for channel in range(6):
        linear[0, channel] = sum(features[channel] ** 2 for features in last) / 32
    return {"0.weight": first, "2.weight": grouped, "6.weight": linear}


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 4), (2, 1), (2, 2)])
def test_input_squares_are_those_of_the_global_batch(world_size: int, accumulate: int) -> None:
    expected = squares_by_hand()
    for result in run_ranks(input_squares, world_size, args=[accumulate]):
        assert result.value.keys() == expected.keys()
        for name, squares in expected.items():
            found = torch.tensor(result.value[name], dtype=torch.float64)
            assert found.shape == squares.shape
            torch.testing.assert_close(found, squares, rtol=1e-12, atol=0)


def test_input_squares_multiply_their_weights_and_leave_no_hook() -> None:
    model = seen_by_layers()
    weights = prunable_weights(model)
    with data_of(Ranks(), 1) as batches:
        squares = mean_input_squares(model, weights, batches, Ranks())
    assert all((weights[name] * squares[name]).shape == weights[name].shape for name in weights)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_weight_without_input_is_named() -> None:
    model = seen_by_layers()
    model.unused = nn.Linear(2, 2).double()
    model.forward = lambda images: nn.Sequential(*list(model)[:7])(images)  # type: ignore[method-assign]
    with data_of(Ranks(), 1) as batches, pytest.raises(ValueError, match=r"unused\.weight has no input"):
        mean_input_squares(model, prunable_weights(model), batches, Ranks())
    assert not any(module._forward_pre_hooks for module in model.modules())


# --------------------------------------------------------------------------------------------------- selection


def test_pruning_to_counts_by_layer_or_in_total() -> None:
    generator = torch.Generator().manual_seed(0)
    scores: dict[str, Tensor] = {name: torch.rand(5, 7, generator=generator) for name in ("a", "b")}
    scores["b"] += 1
    dense = Masks.dense({"a": (5, 7), "b": (5, 7)})
    assert prune_to(dense, scores, 30).counts == {"a": 0, "b": 30}
    layerwise = prune_to(dense, scores, {"a": 3, "b": 30})
    assert layerwise.counts == {"a": 3, "b": 30}
    assert scores["a"][layerwise["a"]].min() > scores["a"][~layerwise["a"]].max()
    assert prune_to(dense, scores, dense.total) == dense
    assert prune_to(dense, scores, {"a": 0, "b": 35}).counts == {"a": 0, "b": 35}
    with pytest.raises(ValueError, match="cannot select"):
        prune_to(dense, scores, 71)
