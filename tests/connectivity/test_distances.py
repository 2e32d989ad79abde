"""Distances and angles on the weights that both networks keep."""

import math

import pytest
import torch

from elth_dist.connectivity.distances import distances
from elth_dist.sparsity.masks import Masks

WEIGHTS = {"a": torch.tensor([[3.0, 0.0], [7.0, 1.0]]), "b": torch.tensor([2.0, -1.0])}
OTHER = {"a": torch.tensor([[0.0, 4.0], [1.0, 9.0]]), "b": torch.tensor([2.0, -1.0])}


def masks(a: list[list[int]], b: list[int]) -> Masks:
    return Masks({"a": torch.tensor(a).bool(), "b": torch.tensor(b).bool()})


def test_only_weights_that_both_keep_count() -> None:
    total, layers = distances(WEIGHTS, OTHER, masks([[1, 1], [1, 0]], [1, 1]), masks([[1, 1], [0, 1]], [1, 0]))
    assert layers["a"].l2 == pytest.approx(5.0)  # (3, 0) and (0, 4)
    assert layers["a"].angle == pytest.approx(90.0)
    assert layers["b"] == (0.0, 1.0, 1)
    assert (total.l2, total.kept) == (pytest.approx(5.0), 3)
    assert total.cosine == pytest.approx(4 / math.sqrt((9 + 4) * (16 + 4)))


def test_opposite_and_empty() -> None:
    every, none = masks([[1, 1], [1, 1]], [1, 1]), masks([[0, 0], [0, 0]], [0, 0])
    negative = {name: -tensor for name, tensor in WEIGHTS.items()}
    assert distances(WEIGHTS, negative, every, every)[0].angle == pytest.approx(180.0)
    assert distances(WEIGHTS, OTHER, every, none)[0] == (0.0, 1.0, 0)
