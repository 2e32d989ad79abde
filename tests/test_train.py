"""`python -m elth_dist.train` as a user runs it: whole small runs, and every mistake as one line."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from elth_dist.sparsity.masks import Masks
from elth_dist.tickets import Ticket, transfer
from elth_dist.tickets.ticket import TicketMeta
from elth_dist.train import main
from tests.helpers.ranks import REPOSITORY, run_ranks, start_torchrun
from tests.helpers.runs import BASE, FULL, IMP, assert_same_science, command, jobs, run

RESIDENT = "--data.loader=resident"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny run of one process, through DALI."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main([*FULL, "--run.dir", str(folder)]) == 0
    return folder


def images(folder: Path, classes: int = 2, each: int = 4) -> Path:
    """A small class-per-folder tree of noise."""
    generator = np.random.default_rng(5)
    for split in ("train", "val"):
        for label in range(classes):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / f"class{label}" / f"{number}.jpg")
    return folder


# ------------------------------------------------------------------------------------------------- whole runs


def test_imp_run_leaves_what_the_readme_says(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs(finished) == sorted(
        [
            "pretrain",
            "level-00",
            "mask-01",
            "level-01",
            "random-resnet14_cifar",
            "transfer-resnet8_cifar",
            "train-resnet8_cifar",
        ]
    )
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "report.md", "report.png"):
        assert (finished / name).stat().st_size > 0, name
    dense, ticket = (Ticket.load(finished / name / "ticket.safetensors") for name in ("pretrain", "mask-01"))
    assert dense.density == 1.0
    assert ticket.meta.level == 1
    assert ticket.masks.total - ticket.masks.kept == -(-ticket.masks.total * 3 // 5), "exactly 60 % are pruned"
    assert all(torch.equal(ticket.weights[name], dense.weights[name]) for name in dense.weights), "theta_r is dense"
    assert ticket.meta.rewind_step == 2
    trained = safetensors.torch.load_file(finished / "level-01/trained.safetensors")
    assert ticket.masks.check_zero(trained) == []
    assert not torch.equal(trained["conv1.weight"], ticket.weights["conv1.weight"])
    random = Ticket.load(finished / "random-resnet14_cifar/ticket.safetensors")
    assert random.masks.densities == ticket.masks.densities
    assert random.masks != ticket.masks
    assert (
        Ticket.load(finished / "transfer-resnet8_cifar/ticket.safetensors").hash
        == transfer(ticket, "resnet8_cifar").hash
    )
    report = (finished / "report.md").read_text()
    assert "ETT <- resnet14_cifar" in report
    assert "random masks" in report


def test_pruning_removes_the_smallest_trained_weights(finished: Path) -> None:
    trained = safetensors.torch.load_file(finished / "level-00/trained.safetensors")
    masks = Ticket.load(finished / "mask-01/ticket.safetensors").masks
    kept = torch.cat([trained[name][mask].abs() for name, mask in masks.items()])
    pruned = torch.cat([trained[name][~mask].abs() for name, mask in masks.items()])
    assert pruned.max() <= kept.min()


def test_tensorboard_and_metrics_hold_every_training(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    by_job: dict[str, set[str]] = {}
    for row in rows:
        by_job.setdefault(row["job"], set()).update(row)
    assert set(by_job) == {"pretrain", "level-00", "level-01", "random-resnet14_cifar", "train-resnet8_cifar"}
    expected = {"train/loss", "train/top1", "train/top5", "train/lr", "train/grad_norm", "val/top1", "val/top5"}
    for job, names in by_job.items():
        assert expected <= names
        assert list((finished / "tensorboard" / job).glob("events.*"))
    assert "overlap/total" in by_job["level-01"]
    steps = [row["step"] for row in rows if row["job"] == "level-01" and "train/loss" in row]
    assert steps == list(range(3, 25)), "the ticket's training enters the schedule at the rewind step"


def test_transferred_and_random_tickets_train_from_a_file(finished: Path, tmp_path: Path) -> None:
    """`method: ticket` on a file gives what the run itself made of that ticket, but for the data order's name."""
    path = finished / "mask-01/ticket.safetensors"
    base = [*BASE, RESIDENT, "--method.name=ticket", f"--method.path={path}", "--model.arch=resnet8_cifar"]
    method = '--method.transfer={"to": "resnet8_cifar"}'
    assert main([*base, method, "--run.dir", str(tmp_path / "a")]) == 0
    assert jobs(tmp_path / "a") == ["train", "transfer"]
    ours = tmp_path / "a/train/ticket.safetensors"
    assert Ticket.load(ours).hash == Ticket.load(finished / "train-resnet8_cifar/ticket.safetensors").hash
    # a moved file is the same ticket: nothing to do
    moved = shutil.copy(path, tmp_path / "elsewhere.safetensors")
    before = (tmp_path / "a/train/trained.safetensors").stat().st_mtime_ns
    again = [argument.replace(str(path), str(moved)) for argument in base]
    assert main([*again, method, "--run.dir", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a/train/trained.safetensors").stat().st_mtime_ns == before


def test_everything_stands_beside_the_ticket_and_its_transfer(tmp_path: Path) -> None:
    """Two ranks; then one of them as a method of its own finds the very same masks."""
    run, target = tmp_path / "run", "resnet20_cifar"
    controls = ["magnitude", "snip", "grasp", {"name": "synflow", "steps": 5}, "reinit", "random_reinit"]
    beside = ["magnitude", "snip", "grasp", "synflow", "reinit", "random_reinit"]
    on_target = [{"name": "snip", "matched": "layerwise"}, "shuffled_copies", "snip_copies"]
    short = [RESIDENT, "--train.epochs=1", "--train.global_batch=480"]  # three steps
    more = [
        *short,
        f"--method.controls={json.dumps(controls)}",
        f"--method.transfers={json.dumps([{'to': target, 'controls': on_target}])}",
    ]
    run_ranks(command(run, *more, base=IMP), 2)

    def ticket(job: str) -> Ticket:
        return Ticket.load(run / job / "ticket.safetensors")

    imp, moved = ticket("mask-01"), ticket(f"transfer-{target}")
    for name in beside:
        control = ticket(f"{name}-resnet14_cifar")
        assert control.masks.kept == imp.masks.kept
        assert (control.masks == imp.masks) == (name == "reinit")
        assert torch.equal(control.weights["conv1.weight"], imp.weights["conv1.weight"]) == ("reinit" not in name)
    assert len({str(ticket(f"{name}-resnet14_cifar").masks.hashes()) for name in beside}) == len(beside)
    for name in ("snip", "shuffled_copies", "snip_copies"):
        control = ticket(f"{name}-{target}")
        assert control.masks.counts == moved.masks.counts
        assert torch.equal(control.weights["conv1.weight"], moved.weights["conv1.weight"]) == (name != "snip")
    assert (
        ticket(f"snip-{target}").weights["conv1.weight"].equal(ticket(f"pretrain-{target}").weights["conv1.weight"])
    ), "theta_r of the target is its own"
    report = (run / "report.md").read_text()
    for label in ("SNIP, layer-wise", "GraSP", "SynFlow", "magnitude", "random masks, reinit (ticket)"):
        assert label in report
    for label in ("shuffled copies (ETT <- resnet14_cifar)", "SNIP in the copies (ETT <- resnet14_cifar)"):
        assert label in report

    like = [f"--method.like={run / 'mask-01/ticket.safetensors'}", "--method.rewind=2it", *short]
    run_ranks(command(tmp_path / "grasp", *like, "--method.name=grasp", base=BASE), 2)
    assert jobs(tmp_path / "grasp") == ["mask", "pretrain", "train"]
    own = Ticket.load(tmp_path / "grasp/mask/ticket.safetensors")
    assert own.hash == ticket("mask-grasp-resnet14_cifar").hash
    assert "GraSP" in (tmp_path / "grasp/report.md").read_text()


def test_fresh_weights_and_copies_of_a_ticket_file(finished: Path, tmp_path: Path) -> None:
    base = [*BASE, RESIDENT, "--train.epochs=1", "--train.eval_every=10"]
    path = finished / "mask-01/ticket.safetensors"
    assert main([*base, "--method.name=reinit", f"--method.like={path}", "--run.dir", str(tmp_path / "reinit")]) == 0
    reinit = Ticket.load(tmp_path / "reinit/train/ticket.safetensors")
    assert reinit.masks == Ticket.load(path).masks
    assert reinit.meta.rewind_step == 2

    transfer_to = '--method.transfer={"to": "resnet20_cifar"}'
    method = ["--method.name=ticket", f"--method.path={path}", transfer_to, "--model.arch=resnet20_cifar"]
    copies = [*base, *method, "--method.control=snip_copies", "--run.dir", str(tmp_path / "copies")]
    assert main(copies) == 0
    assert jobs(tmp_path / "copies") == ["mask", "train", "transfer"]
    made = Ticket.load(tmp_path / "copies/mask/ticket.safetensors")
    # and once more from the transferred ticket's file
    saved_at = tmp_path / "copies/transfer/ticket.safetensors"
    method = ["--method.name=ticket", f"--method.path={saved_at}", "--model.arch=resnet20_cifar"]
    again = [*base, *method, "--method.control=snip_copies", "--run.dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert Ticket.load(tmp_path / "again/mask/ticket.safetensors").hash == made.hash


def test_rewinding_to_initialisation_needs_no_pretraining(tmp_path: Path) -> None:
    more = ["--method.levels=1", "--method.rewind=0", "--method.transfers=[]", "--method.controls=[]"]
    assert main([*BASE, RESIDENT, *more, "--run.dir", str(tmp_path / "run")]) == 0
    ticket = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors")
    assert ticket.meta.rewind_step == 0
    assert set(ticket.weights["bn1.bias"].tolist()) == {0.0}, "theta_0 is the initialisation"


def test_two_nodes_give_what_one_node_gives(tmp_path: Path) -> None:
    """Two torchrun agents of one process each, on this host, and one agent of two processes."""
    line = command(tmp_path / "two", RESIDENT, base=IMP)[1:]
    port = str(29_000 + os.getpid() % 10_000)
    options = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "t"]
    with start_torchrun(line, 1, options=options) as one, start_torchrun(line, 1, options=options) as other:
        one.finish()
        other.finish()
    run(tmp_path / "one", 2, RESIDENT, base=IMP)
    assert_same_science(tmp_path / "two", tmp_path / "one")
    assert json.loads((tmp_path / "two/environment.json").read_text())["world_size"] == 2


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_every_precision_accumulates_and_compares_data_orders(precision: str, tmp_path: Path) -> None:
    more = [f"--train.precision={precision}", "--train.accumulate=2", "--method.data_order=same", "--train.epochs=1"]
    more += ["--train.decay=weights", "--train.schedule=cosine"]
    assert main([*IMP, RESIDENT, *more, "--run.dir", str(tmp_path / "run")]) == 0
    assert jobs(tmp_path / "run") == ["level-00", "level-01", "mask-01", "pretrain"]


# --------------------------------------------------------------------------------------------------- mistakes

Arguments = Callable[[Path], list[str]]


def truncated(folder: Path) -> Path:
    ticket = small_ticket("resnet8_cifar")
    path = folder / "truncated.safetensors"
    ticket.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def small_ticket(arch: str, rewind_step: int = 0, classes: int = 10) -> Ticket:
    from elth_dist.models.build import build_model
    from elth_dist.models.families import architecture

    model = build_model(arch, classes, seed=0)
    meta = TicketMeta(dataset="digits", level=0, rewind_step=rewind_step)
    return Ticket(arch, model.state_dict(), Masks.dense(model, architecture(arch).excluded), meta)


def saved(folder: Path, ticket: Ticket) -> str:
    ticket.save(folder / "ticket.safetensors")
    return f"--method.path={folder / 'ticket.safetensors'}"


def like(folder: Path, ticket: Ticket) -> str:
    return saved(folder, ticket).replace(".path", ".like")


def foreign(folder: Path) -> Path:
    safetensors.torch.save_file({"x": torch.zeros(3)}, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def mismatched(folder: Path) -> Path:
    tree = images(folder / "tree")
    (tree / "val/class1").rename(tree / "val/other")
    return tree


def undecodable(folder: Path) -> Path:
    tree = images(folder / "tree")
    (tree / "train/class1/3.jpg").write_bytes(b"no image at all")
    return tree


def deepspeed_file(folder: Path) -> Path:
    (folder / "deepspeed.json").write_text('{"zero_optimization": {"stage": 3}}')
    return folder / "deepspeed.json"


FOLDER = ["--data.name=folder", "--data.image_size=16", "--train.global_batch=4", "--data.augment=resized_crop"]
TICKET = [*BASE, "--method.name=ticket", "--model.arch=resnet8_cifar"]

MISTAKES: dict[str, tuple[Arguments, str]] = {
    "no dataset folder": (
        lambda _: [*IMP, *FOLDER, "--data.root=/nowhere/at/all"],
        "no folder /nowhere/at/all",
    ),
    "a root for the digits": (
        lambda f: [*IMP, RESIDENT, f"--data.root={f}"],
        "is not read for 'digits', which come with the package",
    ),
    "no root given": (lambda _: [*IMP, "--data.name=imagenet"], "data.root"),
    "classes differ": (lambda f: [*IMP, *FOLDER, f"--data.root={mismatched(f)}"], "class 'class1' is in"),
    "image does not decode, scan": (
        lambda f: [*IMP, *FOLDER, "--data.verify=decode", f"--data.root={undecodable(f)}"],
        "train/class1/3.jpg",
    ),
    "typo": (lambda _: [*IMP, "--train.epoch=3"], "--train.epoch: no such option; did you mean --train.epochs?"),
    "out of range": (
        lambda _: [*IMP, "--method.prune_fraction=1.5"],
        "prune_fraction: Input should be less",
    ),
    "truncated ticket": (lambda f: [*TICKET, f"--method.path={truncated(f)}"], "truncated.safetensors"),
    "foreign ticket": (lambda f: [*TICKET, f"--method.path={foreign(f)}"], "foreign.safetensors: is a safetensors"),
    "no ticket": (lambda _: [*TICKET, "--method.path=/nowhere.safetensors"], "/nowhere.safetensors: no such file"),
    "ticket of another family": (
        lambda f: [*TICKET, saved(f, small_ticket("vgg13")), '--method.transfer={"to": "resnet8_cifar"}'],
        "vgg13",
    ),
    "ticket of another network": (lambda f: [*TICKET, saved(f, small_ticket("resnet14_cifar"))], "model.arch: is"),
    "ticket of other classes": (
        lambda f: [*TICKET, saved(f, small_ticket("resnet8_cifar", classes=7))],
        "7 classes, the dataset 10",
    ),
    "ticket from beyond the end": (
        lambda f: [*TICKET, saved(f, small_ticket("resnet8_cifar", rewind_step=10_000))],
        "the ticket's rewind step is step 10000",
    ),
    "no copies to shuffle": (
        lambda f: [*TICKET, saved(f, small_ticket("resnet8_cifar")), "--method.control=shuffled_copies"],
        "method.control: shuffled_copies, but no unit of the resnet8_cifar is a transfer's copy",
    ),
    "layers of another network": (
        lambda f: [*BASE, "--method.name=random", "--method.rewind=2it", like(f, small_ticket("resnet8_cifar"))],
        "method.like: is a resnet8_cifar ticket, whose layers are not those of 'resnet14_cifar'",
    ),
    "reinit of another network": (
        lambda f: [*BASE, "--method.name=reinit", like(f, small_ticket("resnet8_cifar"))],
        "method.like: is a resnet8_cifar ticket",
    ),
    "no such ticket to be like": (
        lambda _: [*BASE, "--method.name=snip", "--method.rewind=2it", "--method.like=/nowhere.safetensors"],
        "/nowhere.safetensors: no such file",
    ),
    "pruned beyond the end": (
        lambda _: [*BASE, "--method.name=snip", "--method.density=0.1", "--method.rewind=2ep"],
        "method.rewind: 2ep is step 24",
    ),
    "batch exceeds the set": (lambda _: [*IMP, "--train.global_batch=1500"], "train.global_batch: 1500 exceeds"),
    "batch cannot be accumulated": (lambda _: [*IMP, "--train.accumulate=7"], "120 is not a multiple of accumulate 7"),
    "rewind beyond the end": (lambda _: [*BASE, "--method.rewind=2ep"], "method.rewind: 2ep is step 24"),
    "transfer to another family": (lambda _: [*BASE, '--method.transfers=[{"to": "vgg16"}]'], "method.transfers.0"),
    "ramp beyond the end": (
        lambda _: [*BASE, "--method.name=dpf", "--method.density=0.1", "--method.end=25it"],
        "method: the ramp goes from begin 0.0 (step 0) to end 25it (step 25), which must be a later step, 24 at most",
    ),
    "ramp of a control beyond the end": (
        lambda _: [*BASE, '--method.controls=["dense", {"name": "gradual", "end": "3ep"}]'],
        "method.controls.1: the ramp goes",
    ),
    "no density": (lambda _: [*BASE, "--method.name=rigl"], "method: needs either density or like"),
    "DeepSpeed file against our options": (
        lambda f: [*IMP, "--engine.name=deepspeed", f"--engine.deepspeed_config={deepspeed_file(f)}"],
        "engine.deepspeed_config: zero_optimization.stage is 3, but 2 by engine.zero_stage",
    ),
    "no GPU": (lambda _: [*IMP, "--engine.device=cuda"], "engine.device: 'cuda' needs a GPU"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_exit_2_and_nothing_written(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if name == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    arguments, expected = MISTAKES[name]
    folder = tmp_path / "run"
    assert main([*arguments(tmp_path), "--run.dir", str(folder)]) == 2
    written = capfd.readouterr()
    assert written.out == ""
    [line] = written.err.splitlines()
    assert line.startswith("elth_dist: error: ")
    assert expected in line
    leftovers = [path for path in folder.rglob("*") if "digits" not in path.parts] if folder.exists() else []
    assert leftovers == []


def test_run_directory_that_is_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    assert main([*IMP, RESIDENT, "--run.dir", str(tmp_path / "run")]) == 2
    assert "run.dir" in capfd.readouterr().err
    assert (tmp_path / "run").read_text() == "mine"


def test_batch_that_the_ranks_cannot_share_ends_all_of_them(tmp_path: Path) -> None:
    results = run_ranks(command(tmp_path / "run", "--train.global_batch=61"), 2, check=False)
    assert [result.returncode for result in results] == [2, 2]
    [line] = results[0].output.splitlines()
    assert line == (
        "elth_dist: error: train.global_batch: 61 cannot be shared by 2 rank(s) with 1 micro-batch(es) each; "
        "it must be a multiple of 2"
    )
    assert results[1].output == "", "rank 0 speaks for all"
    assert not (tmp_path / "run").exists()


def test_image_that_does_not_decode_is_named_when_it_is_met(tmp_path: Path) -> None:
    tree = undecodable(tmp_path)
    more = [*FOLDER, f"--data.root={tree}", "--train.epochs=3", "--method.levels=1", "--method.rewind=1it"]
    results = run(tmp_path / "run", 2, *more, base=BASE, check=False)
    said = [result for result in results if "train/class1/3.jpg does not decode" in result.output]
    assert said
    assert all(result.returncode == 2 for result in said)
    [line] = [line for line in said[0].output.splitlines() if "elth_dist: error:" in line]
    assert str(tree / "train/class1/3.jpg") in line


def corrupted_on_rank_1(folder: str) -> None:
    """The run's own mask job, where rank 1's memory has lost a bit of one layer between selection and use."""
    from elth_dist.sparsity import selection

    whole = selection.prune

    def damaged(*arguments: Any, **options: Any) -> Masks:
        masks = whole(*arguments, **options)
        if os.environ["RANK"] == "1":
            bits = {name: tensor.clone() for name, tensor in masks.items()}
            bits["layer2.0.conv1.weight"][0, 0, 0, 0] ^= True
            return Masks(bits)
        return masks

    selection.prune = damaged
    sys.exit(main([*IMP, RESIDENT, "--run.dir", folder]))


def test_mask_that_differs_on_one_rank_stops_the_run_and_is_named(tmp_path: Path) -> None:
    results = run_ranks(corrupted_on_rank_1, 2, args=[str(tmp_path / "run")], join=False, check=False)
    assert [result.returncode for result in results] == [1, 1]
    expected = "elth_dist: error: masks of mask-01: layer2.0.conv1.weight differs from rank 0's on rank 1"
    assert expected in results[0].output
    assert "mask-01" not in jobs(tmp_path / "run")


def test_print_config_prints_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*FULL, "--run.dir", str(tmp_path / "run"), "--print-config"]) == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capfd.readouterr().out)
    assert main(["--config", str(file), "--print-config"]) == 0
    assert capfd.readouterr().out == file.read_text()
    assert not (tmp_path / "run").exists()


def test_readme_quickstart_command_is_what_make_runs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    line = "torchrun --standalone --nproc-per-node 2 -m elth_dist.train --config configs/quickstart.yaml"
    assert line in makefile
    assert line in (REPOSITORY / "README.md").read_text()
