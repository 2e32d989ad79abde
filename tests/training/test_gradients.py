"""Gradients of the global batch: whoever holds which part of it, the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.data.protocol import Batch
from elth_dist.runtime.ranks import Ranks
from elth_dist.training.gradients import GlobalBatches, balanced_sample, hessian_gradient_products, mean_gradients
from tests.helpers.ranks import run_ranks

DATA = data_options(
    name="synthetic",
    loader="synthetic",
    image_size=6,
    augment="none",
    flip=False,
    num_classes=4,
    num_train=96,
    num_val=8,
)
GLOBAL_BATCH = 16


def network() -> nn.Module:
    """Smooth and small enough for its whole Hessian; no BatchNorm: the loss is a plain mean over samples."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    ).double()


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def batches_of(ranks: Ranks, *, accumulate: int = 1, batches: int | None = 2) -> GlobalBatches:
    dataset = open_dataset(DATA, ranks, default_root=Path(), dtype=torch.float32)
    return GlobalBatches(dataset, seed=5, global_batch=GLOBAL_BATCH, accumulate=accumulate, batches=batches)


def whole(batches: GlobalBatches) -> Batch:
    parts = list(batches)
    return Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def collected(ranks: Ranks, accumulate: int, temperature: float = 2.0) -> list[dict[str, Tensor]]:
    model = network()
    weights = weights_of(model)
    with batches_of(ranks, accumulate=accumulate) as batches:
        gradients = mean_gradients(model, weights, batches, ranks, temperature=temperature)
        products = hessian_gradient_products(model, weights, gradients, batches, ranks, temperature=temperature)
    return [gradients, products]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_gradient_and_hessian_product_are_those_of_the_mean_loss() -> None:
    model, ranks = network(), Ranks()
    weights = weights_of(model)
    with batches_of(ranks) as batches:
        images, labels, _ = whole(batches)
    assert len(labels) == 2 * GLOBAL_BATCH

    def loss(*values: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, dict(zip(weights, values, strict=True)), (images.double(),))
        return F.cross_entropy(logits / 2.0, labels)

    parameters = tuple(weights.values())
    expected = torch.autograd.grad(loss(*parameters), parameters)
    gradients, products = collected(ranks, 1)
    assert torch.allclose(flat(gradients), torch.cat([part.flatten() for part in expected]), rtol=1e-12)
    rows = torch.autograd.functional.hessian(loss, parameters)
    hessian = torch.cat(
        [
            torch.cat([block.reshape(p.numel(), q.numel()) for block, q in zip(row, parameters, strict=True)], dim=1)
            for row, p in zip(rows, parameters, strict=True)
        ]
    )
    assert torch.allclose(flat(products), hessian @ flat(gradients), rtol=1e-9, atol=1e-15)


def shared(ranks: Ranks, accumulate: int) -> list[list[float]]:
    torch.set_num_threads(1)
    return [flat(tensors).tolist() for tensors in collected(ranks, accumulate)]


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_equal_for_any_ranks_and_accumulation(world_size: int, accumulate: int) -> None:
    expected = [flat(tensors) for tensors in collected(Ranks(), 1)]
    for result in run_ranks(shared, world_size, args=[accumulate]):
        for values, reference in zip(result.value, expected, strict=True):
            found = torch.tensor(values, dtype=torch.float64)
            assert torch.allclose(found, reference, rtol=1e-10, atol=1e-16)


def own_products(ranks: Ranks) -> Any:
    """What it would be if each rank took its own gradient along its own Hessian."""
    torch.set_num_threads(1)
    model = network()
    weights, alone = weights_of(model), Ranks()
    with batches_of(ranks) as batches:
        gradients = mean_gradients(model, weights, batches, alone, temperature=2.0)
        products = hessian_gradient_products(model, weights, gradients, batches, ranks, temperature=2.0)
    return flat(products).tolist()


def test_hessian_meets_the_global_gradient_not_each_ranks_own() -> None:
    expected = flat(collected(Ranks(), 1)[1])
    wrong = torch.tensor(run_ranks(own_products, 2)[0].value, dtype=torch.float64)
    assert (wrong - expected).norm() > 0.1 * expected.norm()


def test_every_pass_sees_the_same_samples_and_beats() -> None:
    ranks, beats = Ranks(), []
    dataset = open_dataset(DATA, ranks, default_root=Path(), dtype=torch.float32)
    with GlobalBatches(
        dataset, seed=5, global_batch=GLOBAL_BATCH, accumulate=2, beat=lambda: beats.append(None)
    ) as batches:
        first, second = ([batch.indices.tolist() for batch in batches] for _ in range(2))
    assert first == second
    assert len(first) == 2 * (96 // GLOBAL_BATCH), "an epoch, where no number is given"
    assert sorted(index for batch in first for index in batch) == list(range(96))
    assert len(beats) == 2 * len(first)


def test_model_is_left_as_it_was() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with batches_of(Ranks()) as batches:
        mean_gradients(model, weights_of(model), batches, Ranks())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


PER_CLASS = 3


def balanced(ranks: Ranks, accumulate: int) -> tuple[list[int], list[dict[str, list[Any]]]]:
    """The dataset indices of this rank's part of a balanced sample, and what is measured on the whole."""
    model = network()
    weights = weights_of(model)
    with batches_of(ranks, accumulate=accumulate, batches=None) as stream:
        sample = balanced_sample(stream, ranks, per_class=PER_CLASS, num_classes=4)
    assert all(0 < len(part.labels) <= GLOBAL_BATCH // (accumulate * ranks.world_size) for part in sample.batches)
    gradients = mean_gradients(model, weights, sample.batches, ranks, samples=sample.total)
    products = hessian_gradient_products(model, weights, gradients, sample.batches, ranks, samples=sample.total)
    measured = [{name: tensor.tolist() for name, tensor in found.items()} for found in (gradients, products)]
    return [index for part in sample.batches for index in part.indices.tolist()], measured


def test_a_balanced_sample_is_the_first_of_each_class() -> None:
    with batches_of(Ranks(), batches=None) as stream:
        everything = whole(stream)
    expected = []
    for label in range(4):
        expected += everything.indices[everything.labels == label][:PER_CLASS].tolist()
    indices, (gradients, _) = balanced(Ranks(), 1)
    assert sorted(indices) == sorted(expected)
    model = network()
    weights = weights_of(model)
    chosen = torch.tensor([int(index) in expected for index in everything.indices])
    loss = F.cross_entropy(model(everything.images[chosen].double()), everything.labels[chosen])
    for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
        torch.testing.assert_close(torch.tensor(gradients[name], dtype=torch.float64), gradient)


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 1), (4, 2)])
def test_a_balanced_sample_is_equal_for_any_ranks(world_size: int, accumulate: int) -> None:
    indices, alone = balanced(Ranks(), 1)
    found = [result.value for result in run_ranks(balanced, world_size, args=[accumulate])]
    assert sorted(index for own, _ in found for index in own) == sorted(indices)
    for _, measured in found:
        for ours, theirs in zip(measured, alone, strict=True):
            for name, values in theirs.items():
                torch.testing.assert_close(torch.tensor(ours[name]), torch.tensor(values))


def test_a_class_with_fewer_samples_gives_all_it_has() -> None:
    with batches_of(Ranks(), batches=1) as stream:
        labels = whole(stream).labels
        sample = balanced_sample(stream, Ranks(), per_class=100, num_classes=4)
    assert sample.total == len(labels) == sum(len(part.labels) for part in sample.batches)
