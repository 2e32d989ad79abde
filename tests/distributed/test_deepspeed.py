"""Whole runs on ZeRO, on two ranks: the method, its tickets, and what an interruption leaves of it."""

import json
import signal
from pathlib import Path

import pytest

from elth_dist.tickets import Ticket
from tests.distributed.test_resume import wait_for
from tests.helpers.runs import BASE, assert_same_science, jobs, run, start

#: Masks that change on the way, by gradients and under dense weights.
CONTROLS = [{"name": "rigl", "delta_t": 5}, {"name": "dpf", "every": 4, "end": 0.8}]
#: Two prunings, a transferred ticket, and other methods beside them.
IMP = [*BASE, "--method.levels=2", "--method.rewind=2it", '--method.transfers=[{"to": "resnet8_cifar"}]']
IMP += [f"--method.controls={json.dumps(CONTROLS)}", "--data.loader=resident"]
ZERO_2 = ["--engine.name=deepspeed", "--engine.zero_stage=2"]
ZERO_3 = ["--engine.name=deepspeed", "--engine.zero_stage=3", "--train.precision=bf16"]
ZERO_3 += ['--engine.deepspeed_config={"zero_optimization": {"stage3_param_persistence_threshold": 100}}']


@pytest.fixture(scope="module")
def on_zero_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("zero") / "run"
    results = run(folder, 2, *ZERO_2, base=IMP)
    assert results[1].output == "", "only rank 0 speaks"
    assert "DeepSpeed" not in results[0].output
    return folder


def test_imp_to_ett_gives_the_tickets_of_ddp(on_zero_2: Path, tmp_path: Path) -> None:
    """Rewinding weights to rounding; of the masks' weights, 99 % after one training and 90 % after two.

    Training amplifies rounding: these are networks with BatchNorm at a high learning rate, whose weights of middling
    size end on either side of the threshold. Seen: 95 % after two.
    """
    run(tmp_path / "ddp", 2, base=IMP)
    assert jobs(on_zero_2) == jobs(tmp_path / "ddp")
    for job in ("pretrain", "mask-01", "mask-02", "transfer-resnet8_cifar"):
        ours, theirs = (Ticket.load(folder / job / "ticket.safetensors") for folder in (on_zero_2, tmp_path / "ddp"))
        assert ours.weights.keys() == theirs.weights.keys()
        for name, weight in ours.weights.items():
            assert (weight - theirs.weights[name]).abs().max() < 1e-4, name
        assert ours.masks.kept == theirs.masks.kept or job.startswith("transfer")
        assert ours.masks.overlap(theirs.masks).total >= {"pretrain": 1.0, "mask-01": 0.99}.get(job, 0.9), job


def test_killed_in_mid_epoch_continues_bit_for_bit(on_zero_2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for checkpoint in ("level-00/checkpoints/step-5", "dpf-resnet14_cifar/checkpoints/step-15"):
        with start(folder, 2, *ZERO_2, base=IMP) as running:
            wait_for(folder / checkpoint, running)
            running.kill()
        assert checkpoint.split("/", maxsplit=1)[0] not in jobs(folder), "killed too late for the test to show anything"
    run(folder, 2, *ZERO_2, base=IMP)
    assert_same_science(folder, on_zero_2)


def test_signalled_run_on_zero_3_in_bf16_continues_bit_for_bit(tmp_path: Path) -> None:
    dense = [*IMP, "--method.name=dense", *ZERO_3]
    dense = [option for option in dense if not option.startswith("--method.") or option == "--method.name=dense"]
    run(tmp_path / "whole", 2, base=dense)
    folder = tmp_path / "run"
    with start(folder, 2, base=dense) as running:
        running.wait_for_output(0, "dense-resnet14_cifar:.*steps 0 to 24")
        running.signal(1, signal.SIGTERM)
        results = running.finish()
    assert "the same command continues from there" in results[0].output
    assert len(list(folder.glob("*/checkpoints/step-*"))) == 1
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".pkl", ".bin")], "nothing is pickled"
    run(folder, 2, base=dense)
    assert_same_science(folder, tmp_path / "whole")
