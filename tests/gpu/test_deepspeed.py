"""ZeRO on a CUDA device: streams and buffers that a CPU does not have."""

import importlib.util
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]

OVERLAP: dict[str, Any] = {"overlap_comm": True, "stage3_param_persistence_threshold": 0}


def on_gpus(engine: dict[str, Any]) -> dict[str, list[str]]:
    """Beside stage 0, whose weights are contiguous too: convolutions sum in the same order."""
    from elth_dist.runtime.ranks import open_ranks
    from tests.sparsity.updates.test_on_ranks import ENGINES, beside

    with open_ranks("cuda") as ranks:
        return beside(ranks, engine, ENGINES["zero0"], 1, 1e-5)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_updates_on_shards_are_those_on_stage_0(stage: int, tuned: bool, world_size: int) -> None:
    from tests.helpers.ranks import run_ranks
    from tests.helpers.updates import UPDATES

    if torch.cuda.device_count() < world_size:
        pytest.skip(f"{world_size} ranks need as many GPUs")
    engine: dict[str, Any] = {"name": "deepspeed", "zero_stage": stage}
    if tuned:
        engine["deepspeed_config"] = {"zero_optimization": OVERLAP}
    for result in run_ranks(on_gpus, world_size, args=[engine], join=False, timeout=240):
        assert result.value == {name: [] for name in UPDATES}
