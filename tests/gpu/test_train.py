"""Whole runs and the training step on a GPU: `make test-gpu`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.ranks import run_ranks
from tests.helpers.runs import FULL, IMP, assert_same_science, command, jobs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
RESIDENT = "--data.loader=resident"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_kind_of_job_runs(precision: str, tmp_path: Path) -> None:
    run_ranks(command(tmp_path / "run", RESIDENT, f"--train.precision={precision}", base=FULL), 1, timeout=300)
    assert "train-resnet8_cifar" in jobs(tmp_path / "run")


def test_compiled_network_trains(tmp_path: Path) -> None:
    run_ranks(command(tmp_path / "run", RESIDENT, "--train.compile=true", base=IMP), 1, timeout=600)


def test_deterministic_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    for name in ("one", "other"):
        line = command(tmp_path / name, RESIDENT, "--train.deterministic=true", "--train.precision=bf16", base=IMP)
        run_ranks(line, 1, timeout=300, env={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
    assert_same_science(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_waits_for_the_device(precision: str) -> None:
    from elth_dist.engines.create import create_engine, image_dtype
    from elth_dist.engines.options import EngineOptions
    from elth_dist.models.build import build_model
    from elth_dist.runtime.ranks import Ranks
    from elth_dist.sparsity.masks import Masks
    from elth_dist.sparsity.updates import StaticMask
    from elth_dist.training.masked_sgd import MaskedSGD
    from elth_dist.training.meters import Meters

    ranks = Ranks(device=torch.device("cuda", 0))
    engine = create_engine(EngineOptions(), ranks, precision=precision)
    engine.prepare(build_model("resnet18", 10, seed=0), lambda m: MaskedSGD(m.parameters(), 0.1, 0.9), (8, 3, 64, 64))
    weights: Any = dict(engine.model.named_parameters())
    StaticMask(Masks.dense(engine.model)).begin(weights, engine.optimizer)
    meters = Meters(ranks)
    images = torch.randn(8, 3, 64, 64, device=ranks.device).to(image_dtype(precision))
    labels = torch.randint(0, 10, (8,), device=ranks.device)

    def step() -> None:
        with engine.micro_step(last=True):
            logits = engine.forward(images.contiguous(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits, labels)
            engine.backward(loss)
        meters.add_batch(loss.detach(), logits.detach(), labels)
        engine.finish_gradients()
        meters.add_step(engine.step())

    for _ in range(3):  # cuDNN chooses its kernels
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meters.read().steps == 6
