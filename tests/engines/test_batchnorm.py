"""BatchNorm's statistics re-estimated from given batches, on every rank."""

import copy

import pytest
import torch
from torch import Tensor, nn

from elth_dist.engines.batchnorm import has_batchnorm, reestimated_batchnorm
from elth_dist.runtime.ranks import Ranks
from tests.helpers.ranks import run_ranks


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    )
    model(torch.randn(8, 3, 8, 8))
    return model.train()


def batches(rank: int) -> list[Tensor]:
    return [torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(10 * rank + n)) for n in range(3)]


def plain(model: nn.Module, images: list[Tensor]) -> list[list[Tensor]]:
    """Mean and unbiased variance before each BatchNorm, per batch, where BatchNorm normalises by the batch."""
    found: list[list[Tensor]] = []
    for x in images:
        row = []
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                row += [x.mean((0, 2, 3)), x.var((0, 2, 3))]
                x = (x - row[-2][:, None, None]) / (x.var((0, 2, 3), unbiased=False) + module.eps).sqrt()[
                    :, None, None
                ] * module.weight[:, None, None] + module.bias[:, None, None]
            elif not isinstance(module, nn.Dropout):
                x = module(x)
        found.append(row)
    return found


def reestimate(ranks: Ranks) -> bool:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        rows = [row for rank in range(ranks.world_size) for row in plain(model, batches(rank))]
    expected = [torch.stack(column).mean(0) for column in zip(*rows, strict=True)]
    with reestimated_batchnorm(model, model, batches(ranks.rank), ranks):
        norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
        within = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
        close = all(torch.allclose(*pair, atol=1e-5) for pair in zip(within, expected, strict=True))
        close &= not any(module.training for module in model.modules())
    restored = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return close and restored and all(norm.momentum == 0.1 for norm in norms)


@pytest.mark.parametrize("world_size", [1, 2])
def test_statistics_are_the_means_over_batches_and_ranks(world_size: int) -> None:
    assert [result.value for result in run_ranks(reestimate, world_size)] == [True] * world_size


def test_running_statistics_come_back_after_an_error() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), reestimated_batchnorm(model, model, batches(0), Ranks()):
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1


def test_networks_without_statistics() -> None:
    assert has_batchnorm(network())
    assert not has_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))
