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


@pytest.mark.parametrize(
    ("update", "precision", "optimizer"),
    [
        *(("static", precision, "sgd") for precision in ("fp32", "bf16", "fp16")),
        *((update, "fp16", "sgd") for update in ("rigl", "set", "snfs", "gradual", "dpf")),
        *(("static", precision, "adamw") for precision in ("bf16", "fp16")),
        *((update, "fp16", "adamw") for update in ("rigl", "dpf")),
    ],
)
def test_no_step_waits_for_the_device(update: str, precision: str, optimizer: str) -> None:
    """Those at which masks change excepted: here they come at step 0, 16 or never."""
    from elth_dist.engines.create import create_engine, image_dtype
    from elth_dist.engines.numerics import Numerics
    from elth_dist.engines.options import EngineOptions
    from elth_dist.models.build import build_model
    from elth_dist.runtime.ranks import Ranks
    from elth_dist.sparsity.masks import Masks, prunable_weights
    from elth_dist.sparsity.updates.static import StaticMask
    from elth_dist.training.masked import MaskedAdamW, MaskedSGD
    from elth_dist.training.meters import Meters
    from tests.helpers.updates import options_of

    ranks = Ranks(device=torch.device("cuda", 0))
    engine = create_engine(EngineOptions(), ranks, Numerics(precision))
    kinds: dict[str, Any] = {
        "sgd": lambda model: MaskedSGD(model.parameters(), 0.1, 0.9),
        "adamw": lambda model: MaskedAdamW(model.parameters(), 1e-3),
    }
    engine.prepare(build_model("resnet18", 10, seed=0), kinds[optimizer], (8, 3, 64, 64))
    dense = Masks.dense(engine.model)
    masks: Any = StaticMask(dense)
    if update != "static":
        far = {"every": 16} if update in ("gradual", "dpf") else {"delta_t": 16}
        moved = {"begin": 0.0} if update == "gradual" else {}
        ends = {"end": 1.0} if update in ("gradual", "dpf") else {"t_end": 1.0}
        options = options_of(update, **far, **moved, **ends)
        masks = options.create(
            dense, density=0.2, seed=0, total_steps=64, steps_per_epoch=32, agree=lambda changed: None
        )
    masks.begin(engine.masked(prunable_weights(engine.model)))
    meters = Meters(ranks)
    images = torch.randn(8, 3, 64, 64, device=ranks.device).to(image_dtype(precision))
    labels = torch.randint(0, 10, (8,), device=ranks.device)

    def train_one(step: int) -> None:
        with masks.computing(), engine.micro_step(last=True):
            logits = engine.forward(images.contiguous(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits, labels)
            engine.backward(loss)
        meters.add_batch(loss.detach(), logits.detach(), labels)
        finite = engine.finish_gradients()
        if masks.before_step(step, finite):
            engine.optimizer.skip_next()
        meters.add_step(engine.step())
        masks.after_step(step, finite)

    for step in range(1, 4):  # cuDNN chooses its kernels
        train_one(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4, 7):
            train_one(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meters.read().steps == 6


@pytest.mark.parametrize("name", ["rigl", "snfs", "gradual", "dpf"])
def test_masks_change_as_on_a_cpu(name: str) -> None:
    """From the same weights and gradients; random growth follows the kind of device."""
    from elth_dist.sparsity.masked_weights import WholeWeights
    from elth_dist.sparsity.masks import Masks
    from elth_dist.training.masked import MaskedSGD
    from tests.helpers.updates import DENSITY, network, options_of

    found = []
    for device in ("cpu", "cuda"):
        model = network().to(device, memory_format=torch.channels_last)
        optimizer = MaskedSGD(model.parameters(), lr=0.0)
        weights: Any = {key: weight for key, weight in model.named_parameters() if weight.ndim > 1}
        update = options_of(name).create(
            Masks.dense(model),
            density=DENSITY,
            seed=1,
            total_steps=12,
            steps_per_epoch=6,
            agree=lambda masks: None,
        )
        update.begin(WholeWeights(weights, optimizer))
        for step in range(12):
            generator = torch.Generator().manual_seed(step)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator).to(device)
            update.before_step(step, True)
            update.after_step(step, True)
            found.append(update.masks.hashes())
    assert found[:12] == found[12:]
