"""The command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from elth_dist.models.build import build_model
from elth_dist.tickets import Ticket, plan_transfer, transfer
from elth_dist.tickets.__main__ import main

Make = Callable[..., Ticket]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def path(make_ticket: Make, tmp_path: Path) -> Path:
    make_ticket("resnet14_cifar").save(tmp_path / "ticket.safetensors")
    return tmp_path / "ticket.safetensors"


def _run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_show(path: Path, capsys: Capture) -> None:
    ticket = Ticket.load(path)
    assert _run("show", path) == 0
    printed = capsys.readouterr().out
    for part in ("resnet14_cifar", f"{100 * ticket.density:.2f} %", "level        5", "rewind step  200", ticket.hash):
        assert part in printed
    for name, density in ticket.masks.densities.items():
        (line,) = [line for line in printed.splitlines() if line.split()[:1] == [name.removesuffix(".weight")]]
        assert line.rstrip().endswith(f"{100 * density:.2f} %")


def test_show_tells_a_tickets_history(path: Path, tmp_path: Path, capsys: Capture) -> None:
    transfer(Ticket.load(path), "resnet20_cifar").save(tmp_path / "moved")
    assert _run("show", tmp_path / "moved") == 0
    printed = capsys.readouterr().out
    assert "resnet14_cifar -> resnet20_cifar: 0:0;1:1,2|0:0;1:1,2|0:0;1:1,2\n" in printed
    assert Ticket.load(path).hash in printed


def test_plan(capsys: Capture) -> None:
    assert _run("plan", "resnet26", "resnet34", "--order", "append") == 0
    assert capsys.readouterr().out.splitlines() == [
        "resnet26 -> resnet34",
        "stage 1: [0, 1, 1]",
        "stage 2: [0, 1, 1, 2]",
        "stage 3: [0, 1, 2, 1, 2, 3]",
        "stage 4: [0, 1, 2]",
        "text: 0:0;1:1,2|0:0;1:1,2;2:3|0:0;1:1,3;2:2,4;3:5|0:0;1:1;2:2",
    ]


def test_plan_options(capsys: Capture) -> None:
    assert _run("plan", "resnet32_cifar", "resnet56_cifar", "--units", "1,2") == 0
    assert "stage 3: [0, 1, 1, 1, 2, 2, 2, 3, 4]" in capsys.readouterr().out
    assert _run("plan", "resnet44_cifar", "resnet20_cifar", "--squeeze", "last") == 0
    assert "stage 1: [0, 5, 6]" in capsys.readouterr().out
    assert _run("plan", "resnet20_cifar", "resnet32_cifar", "--plan", "0:0;1:1,2;2:3,4") == 0
    assert "stage 2: [0, 1, 1, 2, 2]" in capsys.readouterr().out


def test_transfer(path: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "moved.safetensors"
    assert _run("transfer", path, "--to", "resnet26_cifar", "-o", out) == 0
    moved = Ticket.load(out)
    assert moved.hash == transfer(Ticket.load(path), "resnet26_cifar").hash
    printed = capsys.readouterr().out
    assert f"resnet26_cifar at density {100 * moved.density:.2f} %" in printed
    for part, density in moved.stage_densities.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{part} ")]
        assert line.endswith(f"{100 * density:.2f} %")
    assert _run("transfer", path, "--to", "resnet20_cifar", "--plan", "0:0;1:1,2", "-o", out, "--force") == 0
    assert Ticket.load(out).meta.plan == plan_transfer("resnet14_cifar", "resnet20_cifar")


def test_export_loads_into_torchvision(make_ticket: Make, tmp_path: Path) -> None:
    ticket = make_ticket("resnet18")
    ticket.save(tmp_path / "ticket")
    assert _run("export", tmp_path / "ticket", "-o", tmp_path / "plain.safetensors") == 0
    plain = safetensors.torch.load_file(tmp_path / "plain.safetensors")
    model = torchvision.models.resnet18(num_classes=10)
    model.load_state_dict(plain, strict=True)
    kept = sum(int(plain[name].count_nonzero()) for name in ticket.masks)
    assert kept == ticket.masks.kept
    assert ticket.masks.check_zero(plain) == []


def test_export_as_pt(path: Path, tmp_path: Path) -> None:
    assert _run("export", path, "-o", tmp_path / "plain.pt") == 0
    plain = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in Ticket.load(path).masked_weights().items())
    build_model("resnet14_cifar", 10, seed=0).load_state_dict(plain, strict=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("show {dir}/none", "{dir}/none: no such file"),
        ("show {dir}/foreign", "{dir}/foreign: is not a ticket file"),
        ("plan resnet26 resnet43", "unknown architecture 'resnet43'"),
        ("plan resnet26 vgg13", "one family only"),
        ("plan resnet26 resnet34 --order random", "error: --order: invalid choice: 'random'"),
        ("plan resnet26 resnet34 --units one", "error: --units: 'one' is no list of units"),
        ("plan resnet26 resnet34 --plan 0:0 --order append", "leave out --order"),
        ("plan resnet26", "DST: is missing (see "),
        ("", "COMMAND: is missing"),
        ("plant resnet26 resnet34", "invalid choice: 'plant'"),
        ("transfer {dir}/ticket.safetensors --to resnet18 -o {dir}/out.safetensors", "one family only"),
        (
            "transfer {dir}/ticket.safetensors --to resnet8_cifar -o {dir}/no/out.safetensors",
            "{dir}/no/out.safetensors: cannot be written",
        ),
        (
            "transfer {dir}/ticket.safetensors --to resnet8_cifar -o {dir}/ticket.safetensors",
            "ticket.safetensors exists already; --force",
        ),
        ("transfer {dir}/ticket.safetensors --to resnet8_cifar -o {dir}/out.pt", "out.pt: the suffix says the format"),
        ("export {dir}/ticket.safetensors -o {dir}/foreign.pt", "foreign.pt exists already; --force"),
        ("transfer {dir}/ticket.safetensors -o {dir}/out", "--to: is missing"),
        ("export {dir}/ticket.safetensors -o {dir}/out.pth", "valid are .safetensors, .pt"),
        ("export {dir}/foreign -o {dir}/out.pt", "{dir}/foreign: is not a ticket file"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    arguments: str, message: str, path: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("foreign", "foreign.pt"):
        (tmp_path / name).write_bytes(b"PK\3\4 not ours")
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    assert _run(*arguments.format(dir=tmp_path).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("elth_dist: error: ")
    assert captured.err.count("\n") == 1
    assert message.format(dir=tmp_path) in captured.err
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "elth_dist.tickets", "plan", "resnet18"]
    done = subprocess.run([*command, "resnet26"], capture_output=True, text=True, timeout=600, check=True)
    assert "stage 3: [0, 1, 1, 1]" in done.stdout
    failed = subprocess.run([*command, "resnet50"], capture_output=True, text=True, timeout=600, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("elth_dist: error: resnet18 -> resnet50: ")
