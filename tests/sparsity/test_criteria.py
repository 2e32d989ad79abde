import torch
from torch import nn

from elth_dist.sparsity.criteria import magnitude


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
