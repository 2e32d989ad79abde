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
        for result in run_ranks(masks_of_each_step, world_size, args=[accumulate]):
            assert result.value == alone, f"{world_size} ranks, {accumulate} micro-batches"


#: What holds the weights: every rank all of them, or ZeRO, which shares gradients or weights out too.
ENGINES: dict[str, dict[str, Any]] = {"ddp": {"name": "ddp"}} | {
    f"zero{stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)
}
#: nothing but vectors of a few elements is small enough to be kept whole on every rank
ENGINES["zero3"]["deepspeed_config"] = {"zero_optimization": {"stage3_param_persistence_threshold": 32}}
#: the stem is kept whole
ENGINES["zero3 partly whole"] = {
    "name": "deepspeed",
    "zero_stage": 3,
    "deepspeed_config": {"zero_optimization": {"stage3_param_persistence_threshold": 200}},
}
#: small buckets and groups: many partitions, of which few end where a weight does
ENGINES["zero2 tuned"] = {
    "name": "deepspeed",
    "zero_stage": 2,
    "bucket_mib": 0.001,
    "deepspeed_config": {
        "zero_optimization": {"contiguous_gradients": False, "overlap_comm": True, "allgather_bucket_size": 100}
    },
}
ENGINES["zero3 tuned"] = {
    "name": "deepspeed",
    "zero_stage": 3,
    "bucket_mib": 0.001,
    "deepspeed_config": {
        "zero_optimization": {"stage3_param_persistence_threshold": 0, "sub_group_size": 100, "overlap_comm": True}
    },
}


def engine_options(engine: str) -> dict[str, Any]:
    if engine != "ddp":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    return ENGINES[engine]


def momentum(training: Training) -> list[torch.Tensor]:
    """Of what this rank trains."""
    return [slots["momentum_buffer"].clone() for slots in training.engine.optimizer.state.values()]


def beside(
    ranks: Ranks, engine: dict[str, Any], reference: dict[str, Any], accumulate: int, tolerance: float
) -> dict[str, list[str]]:
    """For each update: where two engines differ, in masks or (beyond rounding) in weights and outputs."""
    found: dict[str, list[str]] = {}
    for name in UPDATES:
        plain, other = (
            Training(ranks, name, accumulate=accumulate, engine=EngineOptions(**options)).begin()
            for options in (reference, engine)
        )

        def close(one: torch.Tensor, two: torch.Tensor) -> bool:
            return torch.allclose(one, two, rtol=0, atol=tolerance)

        found[name] = []
        for step in range(STEPS):
            if plain.step(step) != other.step(step):
                found[name].append(f"step {step}: skipped by one")
            other.update.check()
            if plain.update.masks != other.update.masks:
                found[name].append(f"step {step}: masks")
            for layer in plain.masked:
                if not close(plain.masked.whole(layer), other.masked.whole(layer)):
                    found[name].append(f"step {step}: {layer}")
            if step % 5 == 0 and not torch.allclose(plain.evaluate(), other.evaluate(), rtol=0, atol=10 * tolerance):
                found[name].append(f"step {step}: outputs")
        plain.update.finish()
        other.update.finish()
        ours, theirs = dict(other.engine.weights()), plain.engine.weights()
        found[name] += [f"end: {key} not masked" for key in other.update.masks.check_zero(ours)]
        found[name] += [f"end: {key}" for key, value in ours.items() if not close(value, theirs[key])]
    return found


@pytest.mark.parametrize(
    ("engine", "world_size", "accumulate"),
    [
        *((name, 2, 1) for name in ENGINES if name != "ddp"),
        *((name, *split) for name in ("zero2", "zero3") for split in ((1, 2), (4, 1))),
    ],
)
def test_updates_on_zero_are_those_on_ddp(engine: str, world_size: int, accumulate: int) -> None:
    arguments = [engine_options(engine), ENGINES["ddp"], accumulate, 1e-6]
    for result in run_ranks(beside, world_size, args=arguments):
        assert result.value == {name: [] for name in UPDATES}


def deferred(ranks: Ranks, engine: dict[str, Any], precision: str) -> dict[str, Any]:
    """For each update: the steps at which its masks changed, when a sample of rank 0's is infinite at one of them."""
    found: dict[str, Any] = {}
    for name in UPDATES:
        poisoned = 5 if name == "dpf" else 4  # a step at which the masks are to change
        training = Training(ranks, name, precision=precision, poisoned=poisoned, engine=EngineOptions(**engine)).begin()
        changed, unharmed = [], True
        for step in range(STEPS):
            masks, before = training.update.masks, momentum(training)
            training.step(step)
            if training.update.masks is not masks:
                changed.append(step)
            if step == poisoned:
                training.evaluate()
                unharmed = all(map(torch.equal, before, momentum(training)))
        finite = all(bool(training.masked.whole(layer).isfinite().all()) for layer in training.masked)
        found[name] = [changed, unharmed and finite]
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_an_update_on_a_non_finite_step_is_deferred_on_all_ranks(engine: str, precision: str) -> None:
    for result in run_ranks(deferred, 2, args=[engine_options(engine), precision]):
        assert result.value == {
            "rigl": [[0, 5, 8], True],
            "set": [[0, 5, 8], True],
            "snfs": [[0, 5, 8], True],
            "gradual": [[1, 5, 7, 9], True],
            "dpf": [[2, 6, 7, 8, 11], True],
        }


def resumed(ranks: Ranks, engine: dict[str, Any], folder: str, evaluated: bool) -> list[str]:
    """Names of the updates for which 12 steps differ from 6 + 6 with everything saved and loaded in between."""
    torch.use_deterministic_algorithms(True)  # fills memory that nobody wrote with NaN: none of it may reach a tensor
    wrong = []
    for name in UPDATES:
        path = Path(folder) / name
        path.mkdir(exist_ok=True)
        ranks.barrier()
        whole = Training(ranks, name, poisoned=4, engine=EngineOptions(**engine)).begin()
        for step in range(5):  # the update of step 4 is deferred: it is due in the restored training
            whole.step(step)
        if evaluated:
            whole.evaluate()
        whole.engine.save(path)
        if ranks.is_main:
            save_state(path / "update", whole.update.state_dict())
        ranks.barrier()
        other = Training(ranks, name, poisoned=4, engine=EngineOptions(**engine))
        other.engine.load(path)
        other.update.load_state_dict(load_state(path / "update"))
        other.begin()
        for step in range(5, STEPS):
            whole.step(step)
            other.step(step)
            if other.update.masks != whole.update.masks:
                wrong.append(f"{name}: masks of step {step}")
        for training in (whole, other):
            training.update.finish()
        wrong += [
            f"{name}: {layer}"
            for layer in whole.masked
            if not whole.masked.whole(layer).equal(other.masked.whole(layer))
        ]
        if not all(map(torch.equal, momentum(whole), momentum(other))):
            wrong.append(f"{name}: momentum")
    return wrong


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_training_continues_bit_for_bit_across_a_deferred_update(engine: str, evaluated: bool, tmp_path: Path) -> None:
    for result in run_ranks(resumed, 2, args=[engine_options(engine), str(tmp_path), evaluated]):
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
