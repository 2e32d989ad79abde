"""`python -m elth_dist.tickets`: look at tickets, plan and make transfers, export state_dicts."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from elth_dist.errors import UserError
from elth_dist.tickets.plans import Order, Squeeze, TransferPlan, plan_transfer

if TYPE_CHECKING:  # torch is imported by the commands that need it: `plan` and mistakes answer at once
    from elth_dist.tickets.ticket import Ticket

EXPORT_SUFFIXES = (".safetensors", ".pt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake is one line on stderr, status 2, nothing written."""
    try:
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
    except UserError as error:
        print(f"elth_dist: error: {error}", file=sys.stderr)
        return 2
    return 0


def show(options: argparse.Namespace) -> None:
    """Print what a ticket is and how dense each layer is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from elth_dist.tickets.ticket import Ticket

    ticket = Ticket.load(options.file)
    console = Console(highlight=False)
    facts: dict[str, object] = {"arch": ticket.arch, "classes": ticket.num_classes, "density": _percent(ticket.density)}
    facts |= {"weights": f"{ticket.masks.kept:,} of {ticket.masks.total:,} prunable weights kept", "hash": ticket.hash}
    facts |= {name: value for name, value in ticket.meta if value not in (None, ())}
    if ticket.meta.plan is not None:
        facts["plan"] = f"{ticket.meta.plan.source} -> {ticket.meta.plan.target}: {ticket.meta.plan.text}"
    facts |= {"controls": ", ".join(f"{c.kind} (seed {c.seed})" for c in ticket.meta.controls)}
    for name, value in facts.items():
        if value != "":
            console.print(f"{name.replace('_', ' '):<12} {value}", markup=False, soft_wrap=True)
    table = Table("layer", "shape", "kept", "of", "density", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, kept in ticket.masks.counts.items():
        mask = ticket.masks[name]
        shape = " x ".join(str(size) for size in mask.shape)
        table.add_row(
            name.removesuffix(".weight"), shape, f"{kept:,}", f"{mask.numel():,}", _percent(kept / mask.numel())
        )
    console.print(table)


def plan(options: argparse.Namespace) -> None:
    """Print which source unit fills each target unit."""
    made = _plan(options.source, options.target, options)
    print(f"{made.source} -> {made.target}")
    for number, sources in enumerate(made.stages, start=1):
        print(f"stage {number}: {list(sources)}")
    print(f"text: {made.text}")


def transfer(options: argparse.Namespace) -> None:
    """Make the elastic transformation and report the density that it reached."""
    _refuse_existing(options)
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
    """Write a plain state_dict with the mask applied."""
    if options.output.suffix not in EXPORT_SUFFIXES:
        raise UserError(f"-o: {options.output}: the suffix says the format; valid are {', '.join(EXPORT_SUFFIXES)}")
    _refuse_existing(options)
    from elth_dist.tickets.files import write_file
    from elth_dist.tickets.ticket import Ticket

    ticket = Ticket.load(options.file)
    write_file(options.output, _exported(ticket, options.output.suffix))
    print(f"{options.output}: state_dict of {ticket.arch}, {_percent(ticket.density)} of its prunable weights kept")


def _exported(ticket: "Ticket", suffix: str) -> bytes:
    import io

    import safetensors.torch
    import torch

    weights = ticket.masked_weights()
    if suffix == ".safetensors":
        data: bytes = safetensors.torch.save(weights, metadata={"format": "pt"})
        return data
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def _plan(source: str, target: str, options: argparse.Namespace) -> TransferPlan:
    if options.plan is not None and (options.order or options.squeeze):
        raise UserError("--plan already says everything; leave out --order and --squeeze")
    order: Order = options.order or "interpolate"
    squeeze: Squeeze = options.squeeze or "first"
    return plan_transfer(source, target, order, squeeze, options.units, options.plan)


def _refuse_existing(options: argparse.Namespace) -> None:
    if options.output.exists() and not options.force:
        raise UserError(f"-o: {options.output} exists already; --force replaces it")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of units such as 1,2") from None


def _parser() -> _Parser:
    parser = _Parser(prog="python -m elth_dist.tickets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    rules = _Parser(add_help=False)
    rules.add_argument("--order", choices=get_args(Order), help="how stages grow (interpolate)")
    rules.add_argument("--squeeze", choices=get_args(Squeeze), help="units that shrinking stages keep (first)")
    rules.add_argument("--units", type=_units, metavar="1,2", help="copy only these units of growing stages")
    rules.add_argument(
        "--plan", metavar="TEXT", help="the whole plan instead, such as '0:0;1:1,2|...' (source:targets)"
    )
    output = _Parser(add_help=False)
    output.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the file to write")
    output.add_argument("--force", action="store_true", help="replace OUT if it exists")
    ticket = _Parser(add_help=False)
    ticket.add_argument("file", type=Path, metavar="FILE", help="a ticket file")

    def add(command: Callable[[argparse.Namespace], None], *parents: _Parser) -> _Parser:
        sub = commands.add_parser(command.__name__, parents=parents, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    add(show, ticket)
    planning = add(plan, rules)
    planning.add_argument("source", metavar="SRC", help="the ticket's network, such as resnet26")
    planning.add_argument("target", metavar="DST", help="the network to fill, such as resnet34")
    add(transfer, ticket, rules, output).add_argument("--to", required=True, metavar="ARCH", help="the target network")
    add(export, ticket, output)
    return parser


if __name__ == "__main__":
    sys.exit(main())
