"""Every update on real ranks: the same masks for any way to split the global batch, deferral, and exact resumption."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elth_dist.engines.options import EngineOptions
from elth_dist.errors import DisagreementError
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.states import load_state, save_state
from elth_dist.sparsity.masks import Masks
from tests.helpers.ranks import run_ranks
from tests.helpers.updates import STEPS, UPDATES, Training


def masks_of_each_step(ranks: Ranks, accumulate: int) -> dict[str, Any]:
    """In float64, with another global random state on each rank."""
    found: dict[str, Any] = {}
    for name in UPDATES:
        torch.manual_seed(1000 + 17 * ranks.rank + accumulate)
        training = Training(ranks, name, accumulate=accumulate, dtype=torch.float64).begin()
        found[name] = []
        for step in range(STEPS):
            training.step(step)
            torch.rand(1 + ranks.rank)
            found[name].append({layer: str(value) for layer, value in training.update.masks.hashes().items()})
    return found


def test_masks_are_those_of_one_rank_on_the_whole_batch() -> None:
    alone = masks_of_each_step(Ranks(), 1)
    assert all(len({str(masks) for masks in each}) >= 3 for each in alone.values())
    assert masks_of_each_step(Ranks(), 4) == alone, "accumulation"
    for world_size, accumulate in ((2, 1), (2, 2), (4, 1)):
        for result in run_ranks(masks_of_each_step, world_size, args=[accumulate], timeout=120):
            assert result.value == alone, f"{world_size} ranks, {accumulate} micro-batches"


def on_deepspeed(ranks: Ranks) -> dict[str, list[int]]:
    """For each update: the steps at whose end ZeRO's stage 0 and DDP hold different masks."""
    zero = EngineOptions(name="deepspeed", zero_stage=0)
    found: dict[str, list[int]] = {}
    for name in UPDATES:
        plain, other = Training(ranks, name).begin(), Training(ranks, name, engine=zero).begin()
        found[name] = []
        for step in range(STEPS):
            plain.step(step)
            other.step(step)
            other.update.check()
            if plain.update.masks != other.update.masks:
                found[name].append(step)
        other.update.finish()
    return found


def test_updates_work_on_whole_gradients_of_zero_stage_0() -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    for result in run_ranks(on_deepspeed, 2, timeout=240):
        assert result.value == {name: [] for name in UPDATES}


def deferred(ranks: Ranks, precision: str) -> dict[str, Any]:
    """For each update: the steps at which its masks changed, when a sample of rank 0's is infinite at one of them."""
    found: dict[str, Any] = {}
    for name in UPDATES:
        poisoned = 5 if name == "dpf" else 4  # a step at which the masks are to change
        training = Training(ranks, name, precision=precision, poisoned=poisoned).begin()
        changed, unharmed = [], True
        for step in range(STEPS):
            masks, before = training.update.masks, training.snapshot()
            training.step(step)
            if training.update.masks is not masks:
                changed.append(step)
            if step == poisoned:
                training.update.before_forward(step + 1)
                training.update.check()
                unharmed = all(
                    torch.equal(before.momentum[layer], training.snapshot().momentum[layer]) for layer in before.masks
                )
        finite = all(bool(weight.isfinite().all()) for weight in training.weights.values())
        found[name] = [changed, unharmed and finite]
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_update_on_a_non_finite_step_is_deferred_on_all_ranks(precision: str) -> None:
    for result in run_ranks(deferred, 2, args=[precision], timeout=120):
        assert result.value == {
            "rigl": [[0, 5, 8], True],
            "set": [[0, 5, 8], True],
            "snfs": [[0, 5, 8], True],
            "gradual": [[1, 5, 7, 9], True],
            "dpf": [[2, 6, 7, 8, 11], True],
        }


def resumed(ranks: Ranks, folder: str, evaluated: bool) -> list[str]:
    """Names of the updates for which 12 steps differ from 6 + 6 with everything saved and loaded in between."""
    wrong = []
    for name in UPDATES:
        path = Path(folder) / f"{name}-{ranks.rank}"
        path.mkdir()
        whole = Training(ranks, name, poisoned=4).begin()
        for step in range(5):  # the update of step 4 is deferred: it is due in the restored training
            whole.step(step)
        if evaluated:
            whole.evaluate(5)
        whole.engine.save(path)
        save_state(path / "update", whole.update.state_dict())
        ranks.barrier()
        other = Training(ranks, name, poisoned=4)
        source = Path(folder) / f"{name}-0"
        if ranks.rank:
            (source / f"engine-{ranks.rank:05d}.safetensors").write_bytes(
                (path / f"engine-{ranks.rank:05d}.safetensors").read_bytes()
            )
        other.engine.load(source)
        other.update.load_state_dict(load_state(source / "update"))
        other.begin()
        for step in range(5, STEPS):
            whole.step(step)
            other.step(step)
            if other.update.masks != whole.update.masks:
                wrong.append(f"{name}: masks of step {step}")
        for training in (whole, other):
            training.update.finish()
        one, two = whole.snapshot(), other.snapshot()
        for layer in one.masks:
            same = torch.equal(one.weights[layer], two.weights[layer])
            if not (same and torch.equal(one.momentum[layer], two.momentum[layer])):
                wrong.append(f"{name}: {layer}")
    return wrong


@pytest.mark.parametrize("evaluated", [False, True])
def test_training_continues_bit_for_bit_across_a_deferred_update(evaluated: bool, tmp_path: Path) -> None:
    for result in run_ranks(resumed, 2, args=[str(tmp_path), evaluated], timeout=120):
        assert result.value == []


def differing(ranks: Ranks) -> str:
    """Rank 1 has lost a bit of one layer's weights, which moves its masks."""
    training = Training(ranks, "rigl").begin()
    training.step(0)
    if ranks.rank == 1:
        with torch.no_grad():
            training.weights["2.weight"].mul_(-1.5).add_(0.25 * torch.randn(8, 6, 3, 3))
            Masks(dict(training.update.masks)).apply_(training.weights)
    try:
        for step in range(1, STEPS):
            training.step(step)
    except DisagreementError as error:
        return f"step {step}: {error}"
    return "nobody noticed"


def test_ranks_prove_after_each_change_that_they_agree() -> None:
    for result in run_ranks(differing, 2):
        assert result.value == "step 4: rigl: 2.weight differs from rank 0's on rank 1"
