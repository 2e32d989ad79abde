"""Points on the line between two networks, with both BatchNorm statistics, on any number of ranks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from elth_dist.connectivity.line import KINDS, LineMeter, Samples, interpolated
from elth_dist.data.dataset import open_dataset
from elth_dist.data.datasets.digits import Digits
from elth_dist.models.build import build_model
from elth_dist.runtime.ranks import Ranks
from elth_dist.training.evaluation import evaluate
from tests.helpers.ranks import run_ranks


def state(seed: int) -> dict[str, Tensor]:
    return dict(build_model("resnet8_cifar", 10, 8, seed=seed).state_dict())


def test_the_ends_are_exact_and_the_middle_is_the_mean() -> None:
    one, other = state(0), state(1)
    for alpha, expected in ((0.0, one), (1.0, other)):
        found = interpolated(one, other, alpha)
        assert all(torch.equal(found[name], expected[name]) for name in one if one[name].is_floating_point())
    middle = interpolated(one, other, 0.5)
    torch.testing.assert_close(middle["conv1.weight"], (one["conv1.weight"] + other["conv1.weight"]) / 2)
    assert middle["bn1.num_batches_tracked"].dtype == torch.int64


def measured(ranks: Ranks, folder: str, stride: int) -> dict[str, list[float]]:
    options = Digits(image_size=8, loader="resident", threads=1)
    dataset = open_dataset(options, ranks, default_root=Path(folder), dtype=torch.float32)
    samples = Samples(batch=64, measured=2, estimating=3, val_stride=stride, val_batch=50)
    model = build_model("resnet8_cifar", 10, 8, seed=9)
    meter = LineMeter(model, dataset, samples, seed=4, precision="fp32", ranks=ranks, beat=lambda: None)
    first, again = (meter.measure(state(0)) for _ in range(2))
    meter.close()
    assert first == again, "measuring leaves nothing behind"
    direct = evaluate(build_model("resnet8_cifar", 10, 8, seed=0), dataset) if ranks.alone and stride == 1 else None
    assert direct is None or first["val_running"].top1 == direct.top1
    return {kind: [each.loss, each.top1, each.samples] for kind, each in first.items()}


@pytest.mark.parametrize("stride", [1, 7])
def test_one_rank_and_two_measure_the_same(stride: int, tmp_path: Path) -> None:
    alone = measured(Ranks(), str(tmp_path), stride)
    assert tuple(alone) == KINDS
    assert alone["train_running"][2] == 128
    assert alone["val_running"][2] == -(-355 // stride)
    assert alone["val_running"] != alone["val_reestimated"]
    for result in run_ranks(measured, 2, args=[str(tmp_path), stride]):
        for kind in KINDS:
            assert result.value[kind][2] == alone[kind][2]
            tolerance = 1e-5 if kind.endswith("running") else 0.2  # each rank estimates from its half of a batch
            assert result.value[kind][0] == pytest.approx(alone[kind][0], rel=tolerance)
