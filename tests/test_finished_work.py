"""What a run leaves behind, read back: load_run, the commands evaluate and tickets, and files of an older version."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
import yaml

from elth_dist import UserError, build_model, evaluate, load_run
from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.evaluate_file import main as evaluate_file
from elth_dist.runtime.ranks import Ranks
from elth_dist.tickets.__main__ import main as tickets
from elth_dist.tickets.weights import METADATA_KEY, About, load_about, load_weights, save_weights
from elth_dist.train import main as train

CONFIG = {
    "model": {"arch": "resnet8_cifar"},
    "data": {"name": "digits", "loader": "resident", "image_size": 8},
    "train": {"epochs": 1, "global_batch": 240, "milestones": [], "log_every": 1},
    "method": {"name": "imp", "levels": 1, "rewind": "2it", "transfers": [], "controls": []},
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: pretrain, level-00, mask-01, level-01. Not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert (
        train(["--config", str(folder / "config.yaml"), "--run.dir", str(folder / "run"), "--engine.device=cpu"]) == 0
    )
    return folder / "run"


def _without_metadata(finished: Path, folder: Path) -> Path:
    """A copy of the run as the version before metadata left it; the trained weights of level 1."""
    shutil.copytree(finished, folder)
    path = folder / "level-01/trained.safetensors"
    save_weights(path, load_weights(path))
    return path


def _measure(capsys: Capture, *arguments: object) -> dict[str, float]:
    capsys.readouterr()
    assert evaluate_file([*map(str, arguments), "--json", "--device=cpu"]) == 0
    measured: dict[str, float] = json.loads(capsys.readouterr().out)
    return measured


# ----------------------------------------------------------------------------------------------------------- load_run


def test_a_run_directory(finished: Path) -> None:
    run = load_run(finished)
    assert list(run.jobs) == ["pretrain", "level-00", "mask-01", "level-01"]
    assert run.unfinished == ()
    assert run.config["model"]["arch"] == "resnet8_cifar"
    assert repr(run) == f"Run('{finished}', 4 finished jobs: pretrain, level-00, mask-01, level-01)"
    job = run.jobs["level-01"]
    result = json.loads((finished / "level-01/result.json").read_text())
    assert (job.metrics, job.identity, job.options) == (result["metrics"], result["identity"], result["part"])
    assert job.ticket().hash == run.jobs["mask-01"].ticket().hash
    assert job.ticket().masks.check_zero(job.weights()) == []
    rows = job.rows()
    assert {row["job"] for row in rows} == {"level-01"}
    assert [row["val/top1"] for row in rows if "val/top1" in row] == [job.metrics["top1"]]
    assert repr(job) == f"FinishedJob('level-01', arch='resnet8_cifar', density=0.8000, top1={job.metrics['top1']:.4f})"
    assert run.jobs["mask-01"].rows() == []


def test_a_finished_model_is_what_the_run_measured(finished: Path, tmp_path: Path) -> None:
    job = load_run(finished).jobs["level-01"]
    options = data_options(**CONFIG["data"])
    dataset = open_dataset(options, Ranks(), default_root=tmp_path, dtype=torch.float32)
    model = job.model()
    assert not model.training
    measured = evaluate(model.to(memory_format=torch.channels_last), dataset)  # type: ignore[call-overload]
    assert (measured.top1, measured.top5) == (job.metrics["top1"], job.metrics["top5"])
    assert measured.loss == pytest.approx(job.metrics["val_loss"], rel=1e-6)


def test_jobs_without_a_result_are_apart(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/level-01/result.json").unlink()
    run = load_run(tmp_path / "run")
    assert list(run.jobs) == ["pretrain", "level-00", "mask-01"]
    assert run.unfinished == ("level-01",)
    assert repr(run).endswith(", 1 unfinished)")
    with pytest.raises(UserError, match=r"pretrain leaves no trained weights"):
        run.jobs["pretrain"].weights()


def test_a_sweeps_folder(finished: Path, tmp_path: Path) -> None:
    for job, name in (("level-00", "level-aaaa"), ("mask-01", "mask-bbbb")):
        shutil.copytree(finished / job, tmp_path / "jobs" / name)
        (tmp_path / "logs" / name).mkdir(parents=True)
        shutil.copy(finished / "config.yaml", tmp_path / "logs" / name)
    rows = (finished / "metrics.jsonl").read_text().replace('"job": "level-00"', '"job": "level-aaaa"')
    (tmp_path / "logs/level-aaaa/metrics.jsonl").write_text(rows)
    (tmp_path / "logs/level-cccc").mkdir()
    run = load_run(tmp_path)
    assert (list(run.jobs), run.unfinished) == (["level-aaaa", "mask-bbbb"], ("level-cccc",))
    job = run.jobs["level-aaaa"]
    assert job.config["data"]["image_size"] == 8
    assert [row["val/top1"] for row in job.rows() if "val/top1" in row] == [job.metrics["top1"]]
    assert job.model()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_what_is_no_run(finished: Path, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is no run directory"),
        (tmp_path / "none", "no such folder"),
        (finished / "config.yaml", "is a file"),
    ):
        with pytest.raises(UserError, match=message):
            load_run(path)
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/level-01/result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json: is damaged"):
        load_run(tmp_path / "run")


# ----------------------------------------------------------------------------------------------------------- metadata


def test_trained_weights_say_what_they_are(finished: Path) -> None:
    path = finished / "level-01/trained.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [METADATA_KEY]
    assert metadata[METADATA_KEY] == json.dumps(
        json.loads(metadata[METADATA_KEY]), sort_keys=True, separators=(",", ":")
    )
    about, job = load_about(path), load_run(finished).jobs["level-01"]
    assert about is not None
    assert (about.arch, about.num_classes, about.image_size, about.dataset) == ("resnet8_cifar", 10, 8, "digits")
    assert (about.density, about.level, about.job) == (job.metrics["density"], 1, job.identity)
    assert (about.top1, about.top5, about.val_loss) == tuple(job.metrics[name] for name in ("top1", "top5", "val_loss"))
    assert about.fingerprint == job.metrics["dataset"]
    assert data_options(**about.data).identity() == data_options(**CONFIG["data"]).identity()  # type: ignore[arg-type]
    assert "root" not in about.data
    assert str(finished.parent) not in metadata[METADATA_KEY]


def _about(**more: object) -> About:
    given = {"arch": "a", "num_classes": 2, "image_size": 8, "dataset": "digits", "data": {}, "density": 1, "job": "j"}
    return About.model_validate({**given, **more})


def test_metadata_survives_figures_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"a": torch.ones(1)}, _about(val_loss=float("nan"), top1=0.5))
    before = path.read_bytes()
    about = load_about(path)
    assert about is not None
    assert (about.val_loss, about.top1, about.top5) == (None, 0.5, None)
    save_weights(path, {"a": torch.ones(1)}, about)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "unreadable metadata"),
        ("[]", "unreadable metadata"),
        ('{"format_version": 2}', "format version 2"),
        ('{"format_version": 1, "arch": 3}', "unreadable metadata"),
    ],
)
def test_foreign_metadata_is_named(entry: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={METADATA_KEY: entry})
    with pytest.raises(UserError, match=f"weights.safetensors: .*{message}"):
        load_about(path)


# ------------------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_trained_weights(finished: Path, capsys: Capture) -> None:
    path, metrics = finished / "level-01/trained.safetensors", load_run(finished).jobs["level-01"].metrics
    measured = _measure(capsys, path)
    assert (measured["top1"], measured["top5"], measured["samples"]) == (metrics["top1"], metrics["top5"], 355)
    assert measured["loss"] == pytest.approx(metrics["val_loss"], rel=1e-6)
    assert evaluate_file([str(path), "--device=cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"{path}: trained weights, density 80.00%: resnet8_cifar on digits\n" in printed
    assert f"top-1    {metrics['top1']:.2%}\n" in printed


def test_evaluate_weights_of_the_version_before(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    path = _without_metadata(finished, tmp_path / "run")
    assert load_about(path) is None
    measured = _measure(capsys, path, "--batch=50")
    assert measured["top1"] == load_run(finished).jobs["level-01"].metrics["top1"]
    assert load_run(tmp_path / "run").jobs["level-01"].model()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_evaluate_a_ticket_and_plain_weights(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    ticket = load_run(finished).jobs["level-01"].ticket()
    data = ("--data.loader=resident", "--data.image_size=8")
    measured = _measure(capsys, finished / "level-01/ticket.safetensors", *data)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in ticket.masked_weights().items()}}, tmp_path / "a.pt"
    )
    save_weights(tmp_path / "a.safetensors", ticket.masked_weights())
    masked = {name: tensor for name, tensor in ticket.weights.items() if name not in ticket.masks}
    masked |= {f"{name}_orig": ticket.weights[name] for name in ticket.masks}
    masked |= {f"{name}_mask": mask.float() for name, mask in ticket.masks.items()}
    torch.save(masked, tmp_path / "masked.pt")
    for name in ("a.pt", "a.safetensors", "masked.pt"):
        plain = _measure(capsys, tmp_path / name, *data, "--data.name=digits", "--model.arch=resnet8_cifar")
        assert {**plain, "file": ""} == {**measured, "file": ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "FILE: is missing"),
        ("{dir}/none.pt", "{dir}/none.pt: no such file"),
        ("{dir}/foreign.pt", "{dir}/foreign.pt: cannot be read as a state_dict"),
        ("{dir}/foreign", "{dir}/foreign: is not a ticket file, nor weights"),
        ("{dir}/plain.pt", "--data.name: is required"),
        ("{dir}/plain.pt --data.name=digits", "--model.arch: is required"),
        ("{dir}/plain.pt --data.name=cifar10 --model.arch=resnet8_cifar", "data.root: 'cifar10' needs the folder"),
        ("{run}/level-01/trained.safetensors --model.arch=resnet20_cifar", "does not fit resnet20_cifar of 10 classes"),
        ("{run}/level-01/trained.safetensors --data.image_size=9999", "data.image_size: "),
        ("{run}/level-01/trained.safetensors --data.colour=1", "--data.colour: no such option"),
        ("{run}/level-01/trained.safetensors --train.lr=1", "--train: of a configuration's sections, only"),
        ("{run}/level-01/trained.safetensors --precision=int8", "invalid choice: 'int8'"),
        ("{run}/level-01/trained.safetensors --batch=0", "no whole number from 1"),
        ("{run}/level-01/trained.safetensors --data.name=synthetic", "its network has 10 classes, the dataset 1000"),
    ],
)
def test_mistakes_of_evaluate_are_one_line(
    arguments: str, message: str, finished: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("foreign.pt", "foreign"):
        (tmp_path / name).write_bytes(b"PK\3\4 not ours")
    torch.save(build_model("resnet8_cifar", 10, seed=0).state_dict(), tmp_path / "plain.pt")
    capsys.readouterr()
    assert evaluate_file([*arguments.format(dir=tmp_path, run=finished).split(), "--device=cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("elth_dist: error: ")
    assert captured.err.count("\n") == 1
    assert message.format(dir=tmp_path) in captured.err


def test_evaluate_as_a_program(finished: Path) -> None:
    command = [sys.executable, "-m", "elth_dist.evaluate", str(finished / "level-00/trained.safetensors"), "--json"]
    done = subprocess.run([*command, "--device=cpu"], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)["top1"] == load_run(finished).jobs["level-00"].metrics["top1"]


# ------------------------------------------------------------------------------------------------------------- tickets


def test_show_several_files(finished: Path, capsys: Capture) -> None:
    paths = [str(finished / f"level-01/{name}.safetensors") for name in ("trained", "ticket")]
    capsys.readouterr()
    assert tickets(["show", *paths]) == 0
    printed = capsys.readouterr().out
    job = load_run(finished).jobs["level-01"]
    for part in (*paths, job.identity, job.ticket().hash, f"{100 * job.metrics['top1']:.2f} %"):
        assert part in printed
    assert tickets(["show", *paths, "--json"]) == 0
    trained, ticket = json.loads(capsys.readouterr().out)
    assert (trained["kind"], ticket["kind"]) == ("weights", "ticket")
    assert trained["top1"] == job.metrics["top1"]
    assert (ticket["hash"], ticket["kept"]) == (job.ticket().hash, job.ticket().masks.kept)
    masks = job.ticket().masks
    assert {name: layer["kept"] for name, layer in ticket["layers"].items()} == masks.counts
    assert all(trained["layers"][name]["kept"] <= kept for name, kept in masks.counts.items())


def test_show_weights_of_the_version_before(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    path = _without_metadata(finished, tmp_path / "run")
    capsys.readouterr()
    assert tickets(["show", str(path), "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    job = load_run(finished).jobs["level-01"]
    assert (said["arch"], said["top1"], said["job"]) == ("resnet8_cifar", job.metrics["top1"], job.identity)
    alone = shutil.copy(path, tmp_path / "alone.safetensors")
    assert tickets(["show", str(alone)]) == 0
    assert "what it is of, it does not say" in capsys.readouterr().out


def test_export_trained_weights_and_tickets(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    job = load_run(finished).jobs["level-01"]
    for name, weights, said in (
        ("trained", job.weights(), f"trained, top-1 {100 * job.metrics['top1']:.2f} %"),
        ("ticket", job.ticket().masked_weights(), "theta_r, untrained beyond the rewind step 2"),
    ):
        for suffix in (".safetensors", ".pt"):
            out = tmp_path / f"{name}{suffix}"
            assert tickets(["export", str(finished / f"level-01/{name}.safetensors"), "-o", str(out)]) == 0
            assert said in capsys.readouterr().out
            plain = load_weights(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
            assert plain.keys() == weights.keys()
            assert all(torch.equal(plain[key], tensor) for key, tensor in weights.items())
