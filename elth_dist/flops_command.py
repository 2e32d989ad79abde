"""`python -m elth_dist.accounting`: FLOPs of networks and methods, of a run before it starts, and of papers.

An entry point like train.py, which may import every layer.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from elth_dist.accounting.conventions import CONVENTIONS, Convention
from elth_dist.accounting.layers import Densities, Network, network
from elth_dist.accounting.methods import method_names, training_cost
from elth_dist.commandline.parser import Parser, add_plugins, take_plugins
from elth_dist.errors import UserError
from elth_dist.models.families import architecture
from elth_dist.registry import updates
from elth_dist.reporting.tables import aligned
from elth_dist.sparsity.distributions import DISTRIBUTIONS
from elth_dist.sparsity.updates import MaskUpdate
from elth_dist.sparsity.updates.ramp import RampedUpdate

_EXAMPLES = """
  python -m elth_dist.accounting resnet50 --density 0.2 --distribution erk --method rigl --multiplier 5
  python -m elth_dist.accounting --ticket runs/imp/mask-06/ticket.safetensors
  python -m elth_dist.accounting --config configs/imagenet/resnet26_imp.yaml --train.epochs 60
  python -m elth_dist.accounting resnet26 --amortise resnet18 resnet26 resnet34
  python -m elth_dist.accounting --paper
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake is one line on stderr, status 2."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if any(argument.split("=")[0] == "--config" for argument in given):
            options, rest = _config_parser().parse_known_args(given)
            _say_prediction(["--config", options.config, *rest], CONVENTIONS[options.convention], options.json)
            return 0
        options = _parser().parse_args(take_plugins(given)[1])
        if sum(bool(value) for value in (options.arch, options.ticket, options.paper)) != 1:
            raise UserError(f"needs one of: a network, --ticket FILE, --config FILE, --paper (see {_PROGRAM} --help)")
        if options.amortise and options.arch is None:
            raise UserError("--amortise: needs the ticket's own network first, as in `resnet26 --amortise ...`")
        if options.method == "dense" and options.density != 1:
            raise UserError(f"--density: {options.density:g}, but --method dense trains all weights")
        if options.multiplier is None:
            options.multiplier = 5 if options.amortise else 1
        convention = CONVENTIONS[options.convention]
        if options.paper:
            _say_paper(options.json)
        elif options.amortise:
            _say_amortised(options, convention)
        else:
            _say_method(options, convention)
    except UserError as error:
        print(f"elth_dist: error: {error}", file=sys.stderr)
        return 2
    return 0


# ------------------------------------------------------------------------------------------- one network, one method


def _say_method(options: argparse.Namespace, convention: Convention) -> None:
    """Print the layer table and the totals of a network under a method."""
    if options.ticket is not None:
        from elth_dist.tickets.ticket import Ticket

        ticket = Ticket.load(options.ticket)
        counted = _network(ticket.arch, options, ticket.num_classes)
        densities: Densities = ticket.masks.densities
    else:
        counted = _network(options.arch, options)
        densities = DISTRIBUTIONS[options.distribution or "uniform"](counted.shapes, options.density)
    dense_costs, costs = convention.costs(counted, {}), convention.costs(counted, densities)
    dense, sparse = sum(dense_costs.values()), sum(costs.values())
    total = None if options.ramp is None else _RAMP_STEPS
    training = training_cost(_method(options), sparse, dense, total_steps=total, convention=convention.name)
    totals = {
        "arch": counted.arch,
        "image_size": _image_size(counted.arch, options),
        "convention": convention.name,
        "method": options.method,
        "distribution": None if options.ticket else options.distribution or "uniform",
        "density": counted.density(densities),
        "multiplier": options.multiplier,
        "macs": counted.macs,
        "matmul_macs": counted.matmuls,
        "dense_forward_flops": dense,
        "dense_train_flops": 3 * dense,
        "forward_flops": sparse,
        "train_flops": training,
        "forward_relative": sparse / dense,
        "train_relative": options.multiplier * training / (3 * dense),
    }
    if options.json:
        layers = [
            {
                "weight": layer.weight,
                "shape": layer.shape,
                "macs": layer.macs,
                "density": densities.get(layer.weight, 1.0),
                "dense_forward_flops": dense_costs[layer.weight],
                "forward_flops": costs[layer.weight],
            }
            for layer in counted.layers
        ]
        _print_json({**totals, "layers": layers})
        return
    shapes = {layer.weight: " x ".join(map(str, layer.shape)) for layer in counted.layers}
    body = [
        [
            name.removesuffix(".weight"),
            shapes.get(name, ""),
            f"{densities.get(name, 1.0):.4f}" if name in shapes else "",
            f"{dense_costs[name]:,.0f}",
            f"{cost:,.0f}",
            f"{cost / sparse:.2%}",
        ]
        for name, cost in costs.items()
    ]
    headings = ["layer", "shape", "density", "dense FLOPs", "FLOPs", "share"]
    print(aligned(headings, body, left=("layer", "shape")))
    print(f"convention   {convention.name}: {convention.description}")
    print(f"density      {totals['density']:.4f} of the prunable weights")
    print(f"inference    {sparse:.5g} FLOPs per sample, {totals['forward_relative']:.4f}x dense ({dense:.5g})")
    print(f"training     {training:.5g} FLOPs per sample by {options.method}, {training / (3 * dense):.4f}x dense")
    print(f"in total     {totals['train_relative']:.4f}x one dense training, at {options.multiplier:g}x its length")


#: The precision that --ramp is rounded to.
_RAMP_STEPS = 100_000


def _method(options: argparse.Namespace) -> str | MaskUpdate:
    """Build the method with its options from the command line."""
    given: dict[str, Any] = {}
    fields = updates[options.method].model_fields if options.method in updates else {}
    if "delta_t" in fields:
        given["delta_t"] = options.interval
    if options.ramp is not None:
        ramped = sorted((name for name, kind in updates.items() if issubclass(kind, RampedUpdate)), reverse=True)
        if options.method not in ramped:
            raise UserError(f"--ramp: {options.method} has none; valid with {' and '.join(ramped)}")
        begin, end = options.ramp
        if not 0 <= begin < end <= 1 or round(begin * _RAMP_STEPS) == round(end * _RAMP_STEPS):
            raise UserError(f"--ramp: {begin:g} {end:g} must be two growing fractions of the training, from 0 to 1")
        given |= {"begin": begin, "end": end, "every": 1}
    if options.method not in updates:
        return str(options.method)
    update: MaskUpdate = updates[options.method](**given)
    return update


def _network(arch: str, options: argparse.Namespace, num_classes: int | None = None) -> Network:
    classes = num_classes or options.classes or architecture(arch).published.num_classes
    return network(arch, _image_size(arch, options), classes)


def _image_size(arch: str | None, options: argparse.Namespace) -> int:
    if options.image_size is not None:
        size: int = options.image_size
        return size
    assert arch is not None
    return architecture(arch).published.image_size


# ------------------------------------------------------------------------------------------------ runs to come


def _say_prediction(arguments: Sequence[str], convention: Convention, as_json: bool) -> None:
    """Print the predicted cost of a configuration."""
    from elth_dist.config import read_config
    from elth_dist.jobs.plan import make_plan
    from elth_dist.jobs.prediction import predict

    config = read_config(arguments).config
    predicted = predict(make_plan(config.method, config.setting).jobs, convention)
    total = sum(job.train for job in predicted.values())
    unit = next(iter(predicted.values())).dense_train
    if as_json:
        jobs = {name: vars(job) for name, job in predicted.items()}
        _print_json({"convention": convention.name, "jobs": jobs, "train_flops": total, "train_relative": total / unit})
        return
    body = [
        [
            name,
            job.arch,
            f"{job.density:.4f}",
            f"{job.start}-{job.end}",
            f"{job.samples:,}",
            f"{job.forward:.4g}",
            f"{job.train:.4g}",
            f"{job.train / job.dense_train:.3f}x",
        ]
        for name, job in predicted.items()
    ]
    headings = ["job", "network", "density", "steps", "samples", "forward FLOPs", "train FLOPs", "/ dense"]
    print(aligned(headings, body, left=("job", "network")))
    arch = next(iter(predicted.values())).arch
    print(f"in total     {total:.4g} FLOPs, {total / unit:.3f}x one dense training of {arch} ({unit:.4g})")
    print(f"convention   {convention.name}: {convention.description}")
    print("Layer densities after pruning are not known yet: each layer is assumed to have the global density.")


# ----------------------------------------------------------------------------------------------- one for all


def _say_amortised(options: argparse.Namespace, convention: Convention) -> None:
    """Print the cost of one ticket for all targets and of a search for each."""
    from elth_dist.accounting.amortised import Recipe, amortised

    recipe = Recipe(
        levels=options.levels,
        prune_fraction=options.prune_fraction,
        rewind=options.rewind,
        distribution=options.distribution,
        multiplier=options.multiplier,
        interval=options.interval,
    )
    source = _network(options.arch, options)
    for arch in options.amortise:
        if not architecture(options.arch).transfers_to(architecture(arch)):
            raise UserError(f"--amortise: tickets of {options.arch} cannot be moved to {arch}")
    targets = [(arch, _network(arch, options)) for arch in options.amortise]
    rows = amortised(source, targets, recipe, convention)
    if options.json:
        shown = {**vars(recipe), "density": recipe.density(recipe.levels)}
        _print_json(
            {"source": options.arch, "convention": convention.name, **shown, "rows": [vars(row) for row in rows]}
        )
        return
    rigl = "RigL" if recipe.multiplier == 1 else f"RigL-{recipe.multiplier:g}x"
    headings = ["K", "and", "one for all", "K x IMP", f"K x {rigl}", "K x DPF"]
    body = [
        [str(row.count), row.targets[-1], *(f"{v:.3f}" for v in (row.one_for_all, row.imp, row.rigl, row.dpf))]
        for row in rows
    ]
    print(f"Training FLOPs of K networks at density {recipe.density(recipe.levels):.4f}, dense {options.arch} = 1\n")
    print(aligned(headings, body, left=("and",)))
    print(f"one for all  IMP on {options.arch} once (levels 0 to {recipe.levels - 1}), then a ticket trained on each")
    print(f"convention   {convention.name}: {convention.description}")


# --------------------------------------------------------------------------------------------------- papers


def _say_paper(as_json: bool) -> None:
    """Print published, reproduced and exact figures in one table each."""
    from elth_dist.accounting.paper import as_printed, tables

    published = tables()
    if as_json:
        _print_json(
            [
                {
                    "title": table.title,
                    "remark": table.remark,
                    "figures": [
                        {
                            "what": figure.what,
                            "published": figure.published,
                            "reproduced": figure.reproduced,
                            **dict(zip(table.ways, figure.exact, strict=True)),
                            "is_reproduced": figure.is_reproduced,
                            "follows_from_real_flops": figure.follows,
                            "note": figure.note,
                        }
                        for figure in table.figures
                    ],
                }
                for table in published
            ]
        )
        return
    for table in published:
        headings = ["figure", "published", "reproduced", *table.ways, "follows", "note"]
        body = [
            [
                figure.what,
                figure.published,
                "-" if figure.reproduced is None else as_printed(figure.reproduced, figure.published),
                *(as_printed(value, figure.published) for value in figure.exact),
                "yes" if figure.follows else "NO",
                figure.note,
            ]
            for figure in table.figures
        ]
        print(f"{table.title}\n")
        print(aligned(headings, body, left=("figure", "note")))
        print(f"{table.remark}\n\n")
    unreal = [
        f"  {table.title.split(', one')[0]}: {figure.what}: published {figure.published}, "
        f"exact {' or '.join(as_printed(value, figure.published) for value in figure.exact)}"
        for table in published
        for figure in table.figures
        if not figure.follows
    ]
    print("Published figures whose digits do not follow from real FLOPs:", *unreal, sep="\n")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


# ------------------------------------------------------------------------------------------------ command line

_PROGRAM = "python -m elth_dist.accounting"


def _number(low: float, high: float, *, whole: bool = False, open_low: bool = False) -> Any:
    """Make an argparse type: a number within [low, high], or (low, high]."""

    def read(text: str) -> float:
        try:
            value: float = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if whole else ''}number") from None
        if math.isnan(value) or not low <= value <= high or (open_low and value == low):
            raise argparse.ArgumentTypeError(
                f"{text} is not {'above' if open_low else 'at least'} {low:g} and at most {high:g}"
            )
        return value

    return read


def _parser() -> Parser:
    parser = Parser(
        prog=_PROGRAM,
        description="FLOPs of networks and methods, of a run before it starts, and of papers.",
        epilog=f"examples:{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("of what")
    what.add_argument("arch", nargs="?", metavar="NETWORK", help="such as resnet50, resnet20_cifar or vgg16")
    what.add_argument("--ticket", metavar="FILE", help="a ticket: its network, with the densities of its masks")
    what.add_argument("--config", metavar="FILE", help="predicted cost of a run; --section.option value sets options")
    what.add_argument("--paper", action="store_true", help="published figures against ours (E-LTH section 4.5, RigL)")
    what.add_argument(
        "--amortise", nargs="+", metavar="NETWORK", default=[], help="networks to train from one ticket of NETWORK"
    )
    what.add_argument("--image-size", type=_number(4, 4096, whole=True), metavar="PX", help="224, or 32 for CIFAR nets")
    what.add_argument("--classes", type=_number(1, 1 << 20, whole=True), metavar="N", help="1000, or 10 for CIFAR nets")
    method = parser.add_argument_group("by which method")
    method.add_argument("--method", choices=method_names(), default="static", help="how it trains (static)")
    method.add_argument(
        "--density", type=_number(0, 1, open_low=True), default=1.0, help="kept fraction of the weights (1)"
    )
    method.add_argument(
        "--distribution", choices=list(DISTRIBUTIONS), help="of the density over layers (uniform, conv1 dense)"
    )
    method.add_argument(
        "--multiplier",
        type=_number(0, 1000, open_low=True),
        help="length of the training in dense trainings (1; RigL under --amortise: 5)",
    )
    method.add_argument(
        "--interval", type=_number(1, 1 << 30, whole=True), default=100, help="steps between RigL's updates (100)"
    )
    method.add_argument(
        "--ramp",
        type=float,
        nargs=2,
        metavar=("BEGIN", "END"),
        help="ramp of gradual and dpf: fractions of the training",
    )
    imp = parser.add_argument_group("how tickets are found (--amortise)")
    imp.add_argument("--levels", type=_number(1, 100, whole=True), default=6, help="prunings (6)")
    imp.add_argument(
        "--prune-fraction",
        type=_number(0, 0.999, open_low=True),
        default=0.2,
        help="fraction of the remaining weights pruned per level (0.2)",
    )
    imp.add_argument(
        "--rewind", type=_number(0, 0.999), default=5 / 90, help="rewind step as a fraction of the training (5/90)"
    )
    add_plugins(parser)
    _add_output(parser)
    return parser


def _config_parser() -> Parser:
    """Make the parser for --config, where every other option belongs to the configuration."""
    parser = Parser(prog=_PROGRAM)
    parser.add_argument("--config", required=True)
    _add_output(parser)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--convention", choices=list(CONVENTIONS), default="exact", help="how FLOPs are counted (exact)"
    )
    parser.add_argument("--json", action="store_true", help="as data")
