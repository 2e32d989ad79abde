"""`python -m elth_dist.tickets`: look at tickets and weights, plan and make transfers, export state_dicts."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from elth_dist.commandline.parser import Parser, add_plugins, take_plugins
from elth_dist.errors import UserError
from elth_dist.tickets.plans import Order, Squeeze, TransferPlan, plan_transfer

if TYPE_CHECKING:  # torch is imported by the commands that need it: `plan` and mistakes answer at once
    from torch import Tensor

    from elth_dist.tickets.ticket import Ticket

TICKET_SUFFIXES = (".safetensors",)
EXPORT_SUFFIXES = (".safetensors", ".pt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake is one line on stderr, status 2, nothing written."""
    try:
        _, rest = take_plugins(sys.argv[1:] if arguments is None else arguments)
        options = _parser().parse_args(rest)
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
    except UserError as error:
        print(f"elth_dist: error: {error}", file=sys.stderr)
        return 2
    return 0


def show(options: argparse.Namespace) -> None:
    """Print what tickets and trained weights are, and how dense each layer is."""
    described = [_describe(path) for path in options.files]
    if options.json:
        print(json.dumps(described, indent=1, allow_nan=False))
        return
    for number, facts in enumerate(described):
        if len(described) > 1:
            print(f"{chr(10) if number else ''}{facts['file']}")
        _print_facts(facts)


def _describe(path: Path) -> dict[str, Any]:
    """All that a file says about itself, as JSON values."""
    about: dict[str, Any]
    ticket = _ticket(path)
    if ticket is not None:
        masks = ticket.masks
        layers = {name: (masks[name].shape, kept) for name, kept in masks.counts.items()}
        about = {"kind": "ticket", "arch": ticket.arch, "num_classes": ticket.num_classes, "density": ticket.density}
        about |= {"kept": masks.kept, "total": masks.total, "hash": ticket.hash, **ticket.meta.model_dump(mode="json")}
    else:
        from elth_dist.tickets.weights import load_about, load_weights

        weights = load_weights(path)
        layers = {
            name: (tensor.shape, int(tensor.count_nonzero()))
            for name, tensor in weights.items()
            if tensor.ndim > 1 and name.rpartition(".")[2] == "weight"
        }
        own = load_about(path)
        about = {"kind": "weights", **(_result_beside(path) if own is None else own.model_dump(mode="json"))}
    counts = {name: {"shape": list(shape), "kept": kept} for name, (shape, kept) in layers.items()}
    return {"file": str(path), **about, "layers": counts}


def _result_beside(path: Path) -> dict[str, Any]:
    """What the job's result.json says about trained weights of an older version; empty if there is none."""
    from elth_dist.runtime.job_folder import JobFolder

    folder = JobFolder(path.resolve().parent)
    if not folder.result.is_file():
        return {}
    result = folder.read()
    if path.name not in result.files:
        return {}
    said = ("arch", "density", "level", "top1", "top5", "val_loss")
    return {**{name: result.metrics[name] for name in said if name in result.metrics}, "job": result.identity}


def _print_facts(facts: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name, value in _in_words(facts).items():
        console.print(f"{name.replace('_', ' '):<12} {value}", markup=False, soft_wrap=True)
    table = Table("layer", "shape", "kept", "of", "density", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, layer in facts["layers"].items():
        shape, size = " x ".join(map(str, layer["shape"])), math.prod(layer["shape"])
        density = _percent(layer["kept"] / size)
        table.add_row(name.removesuffix(".weight"), shape, f"{layer['kept']:,}", f"{size:,}", density)
    console.print(table)


def _in_words(facts: Mapping[str, Any]) -> dict[str, object]:
    """The facts for people, without those that are empty."""
    said: dict[str, object] = {name: value for name, value in facts.items() if value not in (None, [], ())}
    for name in ("file", "kind", "layers", "kept", "total", "format_version", "data"):
        said.pop(name, None)
    said = {("classes" if name == "num_classes" else name): value for name, value in said.items()}
    said |= {name: _percent(facts[name]) for name in ("density", "top1", "top5") if name in said}
    said |= {"val_loss": f"{facts['val_loss']:.4f}"} if "val_loss" in said else {}
    if "total" in facts:
        said["weights"] = f"{facts['kept']:,} of {facts['total']:,} prunable weights kept"
    if facts["kind"] == "weights":
        said["weights"] = "trained" if "job" in facts else "a state_dict: what it is of, it does not say"
    if "plan" in said:
        made = TransferPlan(**{**facts["plan"], "stages": tuple(map(tuple, facts["plan"]["stages"]))})
        said["plan"] = f"{made.source} -> {made.target}: {made.text}"
    if "controls" in said:
        said["controls"] = ", ".join(
            control["kind"] + ("" if control["seed"] is None else f" (seed {control['seed']})")
            for control in facts["controls"]
        )
    return said


def plan(options: argparse.Namespace) -> None:
    """Print which source unit fills each target unit."""
    made = _plan(options.source, options.target, options)
    print(f"{made.source} -> {made.target}")
    for number, sources in enumerate(made.stages, start=1):
        print(f"stage {number}: {list(sources)}")
    print(f"text: {made.text}")


def transfer(options: argparse.Namespace) -> None:
    """Make the elastic transformation and report the density that it reached."""
    _check_output(options, TICKET_SUFFIXES)
    from elth_dist.tickets.elastic import transfer as move
    from elth_dist.tickets.ticket import Ticket

    source = Ticket.load(options.file)
    target = move(source, options.to, _plan(source.arch, options.to, options))
    target.save(options.output)
    print(f"{options.output}: {target.arch} at density {_percent(target.density)}")
    print(f"{'':<10} {source.arch:>16} {target.arch:>16}")
    print(f"{'total':<10} {_percent(source.density):>16} {_percent(target.density):>16}")
    before = source.stage_densities
    for part, density in target.stage_densities.items():
        print(f"{part:<10} {_percent(before[part]):>16} {_percent(density):>16}")


def export(options: argparse.Namespace) -> None:
    """Write a plain state_dict: a ticket's weights with the mask applied (untrained), or trained weights."""
    _check_output(options, EXPORT_SUFFIXES)
    from elth_dist.tickets.files import write_file

    ticket = _ticket(options.file)
    if ticket is not None:
        weights = ticket.masked_weights()
        step = ticket.meta.rewind_step
        what = f"{ticket.arch}, {_percent(ticket.density)} of its prunable weights kept; a ticket: theta_r, " + (
            f"untrained beyond the rewind step {step}" if step else "untrained"
        )
    else:
        from elth_dist.tickets.weights import load_weights

        weights = load_weights(options.file)
        facts = _describe(options.file)
        what = facts.get("arch", "an unnamed network")
        what += f", {_percent(facts['density'])} of its prunable weights kept" if "density" in facts else ""
        what += f"; trained, top-1 {_percent(facts['top1'])}" if facts.get("top1") is not None else ""
    write_file(options.output, _exported(weights, options.output.suffix))
    print(f"{options.output}: state_dict of {what}")


def _exported(weights: "Mapping[str, Tensor]", suffix: str) -> bytes:
    import io

    import safetensors.torch
    import torch

    if suffix == ".safetensors":
        data: bytes = safetensors.torch.save(dict(weights), metadata={"format": "pt"})
        return data
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    return buffer.getvalue()


def _ticket(path: Path) -> "Ticket | None":
    """The ticket in a file; None if it holds weights. UserError if it holds neither."""
    from elth_dist.tickets.ticket import METADATA_KEY, Ticket
    from elth_dist.tickets.weights import read_metadata

    return Ticket.load(path) if METADATA_KEY in read_metadata(path) else None


def _plan(source: str, target: str, options: argparse.Namespace) -> TransferPlan:
    if options.plan is not None and (options.order or options.squeeze):
        raise UserError("--plan already says everything; leave out --order and --squeeze")
    order: Order = options.order or "interpolate"
    squeeze: Squeeze = options.squeeze or "first"
    return plan_transfer(source, target, order, squeeze, options.units, options.plan)


def _check_output(options: argparse.Namespace, suffixes: Sequence[str]) -> None:
    if options.output.suffix not in suffixes:
        raise UserError(
            f"-o: {options.output}: the suffix says the format; valid {'is' if len(suffixes) == 1 else 'are'} "
            f"{', '.join(suffixes)}"
        )
    if options.output.exists() and not options.force:
        raise UserError(f"-o: {options.output} exists already; --force replaces it")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of units such as 1,2") from None


def _parser() -> Parser:
    parser = Parser(prog="python -m elth_dist.tickets", description=__doc__)
    add_plugins(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    rules = Parser(add_help=False)
    rules.add_argument("--order", choices=get_args(Order), help="how stages grow (interpolate)")
    rules.add_argument("--squeeze", choices=get_args(Squeeze), help="units that shrinking stages keep (first)")
    rules.add_argument("--units", type=_units, metavar="1,2", help="copy only these units of growing stages")
    rules.add_argument(
        "--plan", metavar="TEXT", help="the whole plan instead, such as '0:0;1:1,2|...' (source:targets)"
    )
    output = Parser(add_help=False)
    output.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the file to write")
    output.add_argument("--force", action="store_true", help="replace OUT if it exists")
    ticket = Parser(add_help=False)
    ticket.add_argument("file", type=Path, metavar="FILE", help="a ticket file")

    def add(command: Callable[[argparse.Namespace], None], *parents: Parser) -> Parser:
        sub = commands.add_parser(command.__name__, parents=parents, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    showing = add(show)
    showing.add_argument("files", type=Path, nargs="+", metavar="FILE", help="tickets and files of trained weights")
    showing.add_argument("--json", action="store_true", help="print a JSON list, one object per file")
    planning = add(plan, rules)
    planning.add_argument("source", metavar="SRC", help="the ticket's network, such as resnet26")
    planning.add_argument("target", metavar="DST", help="the network to fill, such as resnet34")
    add(transfer, ticket, rules, output).add_argument("--to", required=True, metavar="ARCH", help="the target network")
    weights = Parser(add_help=False)
    weights.add_argument("file", type=Path, metavar="FILE", help="a ticket, or trained.safetensors of a job")
    add(export, weights, output)
    return parser


if __name__ == "__main__":
    sys.exit(main())
