"""Measure a file of weights on a validation set: what `python -m elth_dist.evaluate` does."""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError, create_model

from elth_dist.commandline.parser import Parser, add_plugins, take_plugins
from elth_dist.config import Config, explain, read_overrides
from elth_dist.data.options import DataOptions
from elth_dist.errors import DisagreementError, UserError, tell
from elth_dist.models.options import ModelOptions
from elth_dist.options import Options
from elth_dist.runtime.launcher import launcher_ranks
from elth_dist.training.options import Precision

if TYPE_CHECKING:  # torch is imported once the command line is understood
    from torch import Tensor, nn

    from elth_dist.data.protocol import Dataset
    from elth_dist.training.evaluation import Evaluation

_PROGRAM = "python -m elth_dist.evaluate"
_EXAMPLES = """
FILE is trained.safetensors of a job, a ticket (its subnetwork at theta_r), or a state_dict (.safetensors, or .pt read
with weights_only), also one pruned by torch.nn.utils.prune. The first two say which network and which data they are of;
--data.OPTION and --model.arch override that, as in a configuration.

  python -m elth_dist.evaluate runs/quickstart/level-00/trained.safetensors
  python -m elth_dist.evaluate runs/resnet50/level-06/trained.safetensors --data.root /data/imagenet --precision bf16
  python -m elth_dist.evaluate weights.pt --model.arch resnet18 --data.name imagenet --data.root /data/imagenet
"""


@dataclass(frozen=True)
class _File:
    """The weights of a file, and what it says about them."""

    what: str  # for people
    weights: "Mapping[str, Tensor]"
    arch: str | None = None
    data: Mapping[str, Any] | None = None  # the `data` section
    num_classes: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the accuracy of one file; returns the exit status. A user's mistake is one line on stderr, status 2."""
    rank = 0
    try:
        rank, _, _ = launcher_ranks()
        logging.basicConfig(level=logging.WARNING, format="elth_dist: warning: %(message)s")
        _, given = take_plugins(sys.argv[1:] if arguments is None else arguments)
        options, rest = _parser().parse_known_args(given)
        measured, what = _run(options, rest)
        if rank == 0:
            _say(options, measured, what)
    except (UserError, DisagreementError) as error:
        return tell(error, rank)
    return 0


def _run(options: argparse.Namespace, rest: Sequence[str]) -> "tuple[Evaluation, str]":
    overrides = read_overrides(rest)
    for section in overrides:
        if section not in ("data", "model"):
            raise UserError(f"--{section}: of a configuration's sections, only data and model are for an evaluation")
    if not options.file.exists():
        raise UserError(f"{options.file}: no such file")
    import torch

    from elth_dist.data.dataset import open_dataset
    from elth_dist.engines.create import image_dtype
    from elth_dist.runtime.ranks import open_ranks

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: 'cuda' needs a GPU, but torch sees none (valid here: auto, cpu)")
    file = _read(options.file)
    model_options, data = _sections(file, overrides, options.file)
    data.check()
    with open_ranks(options.device) as ranks, tempfile.TemporaryDirectory() as scratch:
        dtype = image_dtype(options.precision)
        dataset = open_dataset(data, ranks, default_root=Path(scratch), dtype=dtype)
        if file.num_classes not in (None, dataset.num_classes):
            raise UserError(
                f"{options.file}: its network has {file.num_classes} classes, the dataset {dataset.num_classes}"
            )
        model = _network(options.file, file, model_options.arch, dataset)
        loader = dataset.val_loader(batch=options.batch)
        try:
            measured = _measure(model, loader, ranks, options.precision)
        finally:
            loader.close()
        ranks.barrier()  # the digits of `scratch` are read by all
    return measured, f"{file.what}: {model_options.arch} on {data.name}"


def _measure(model: "nn.Module", loader: Any, ranks: Any, precision: str) -> "Evaluation":
    """Over all ranks, as a training measures it."""
    import torch

    from elth_dist.engines.numerics import Numerics
    from elth_dist.training.evaluation import means, outcome_sums

    numerics = Numerics(precision)
    device = ranks.device
    model = model.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def forward(images: "Tensor") -> "Tensor":
        with numerics.autocasting(device):
            logits: Tensor = model(images)
        return logits.float()

    with numerics.applied():
        own = outcome_sums(forward, ((batch.images, batch.labels) for batch in loader), device)
    return means(ranks.sum_(own))


def _read(path: Path) -> _File:
    """UserError naming the file for whatever is wrong with it."""
    import torch

    from elth_dist.tickets.ticket import METADATA_KEY as TICKET_KEY
    from elth_dist.tickets.ticket import Ticket
    from elth_dist.tickets.weights import load_about, load_weights, read_metadata

    if path.suffix in (".pt", ".pth"):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever its unpickler meets
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{path}: cannot be read as a state_dict (weights_only): {reason}") from error
        return _File("state_dict", _plain(path, state))
    if TICKET_KEY in read_metadata(path):
        ticket = Ticket.load(path)
        what = f"ticket, not trained beyond step {ticket.meta.rewind_step} (theta_r), density {ticket.density:.2%}"
        return _File(what, ticket.masked_weights(), ticket.arch, {"name": ticket.meta.dataset}, ticket.num_classes)
    about = load_about(path)
    weights = load_weights(path)
    if about is not None:
        what = f"trained weights, density {about.density:.2%}"
        return _File(what, weights, about.arch, about.data, about.num_classes)
    return _of_older_version(path, weights) or _File("state_dict", _plain(path, weights))


def _of_older_version(path: Path, weights: "Mapping[str, Tensor]") -> _File | None:
    """What the folder of a job says about its trained weights."""
    from elth_dist.runs import job_of

    job = job_of(path)
    if job is None or path.name not in job.files:
        return None
    data = {name: value for name, value in job.config.get("data", {}).items() if name != "root"}
    return _File("trained weights", weights, job.metrics.get("arch"), data or None)


def _plain(path: Path, state: Any) -> "dict[str, Tensor]":
    """A state_dict of any origin, with its masks applied."""
    from elth_dist.sparsity.imported import split

    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state_dict")
    try:
        masks, weights = split(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return {name: tensor * masks[name] if name in masks else tensor for name, tensor in weights.items()}


def _sections(file: _File, overrides: Mapping[str, Any], path: Path) -> tuple[ModelOptions, DataOptions]:
    """The `model` and `data` sections: the file's, with the command line's over them."""
    given = dict(overrides.get("data", {}))
    own = dict(file.data or {})
    if given.get("name", own.get("name")) == own.get("name"):
        given = {**own, **given}
    if "name" not in given:
        raise UserError(f"--data.name: is required, since {path} does not say which data it is of")
    model = {**({} if file.arch is None else {"arch": file.arch}), **overrides.get("model", {})}
    if "arch" not in model:
        raise UserError(f"--model.arch: is required, since {path} does not say which network it is of")
    fields: dict[str, Any] = {name: (Config.model_fields[name].rebuild_annotation(), ...) for name in ("model", "data")}
    try:
        form = create_model("Sections", __base__=Options, **fields)
        sections: Any = form.model_validate({"model": model, "data": given})
    except ValidationError as error:
        raise UserError(explain(error, overrides, str(path))) from None
    return sections.model, sections.data


def _network(path: Path, file: _File, arch: str, dataset: "Dataset") -> "nn.Module":
    from elth_dist.models.build import build_model

    num_classes = dataset.num_classes
    model = build_model(arch, num_classes, dataset.image_size, seed=0)
    state = model.state_dict()
    for name in [*state, *file.weights]:
        where = f"{path}: does not fit {arch} of {num_classes} classes"
        if name not in file.weights:
            raise UserError(f"{where}: {name!r} is missing")
        if name not in state:
            raise UserError(f"{where}: {name!r} is none of its tensors")
        if file.weights[name].shape != state[name].shape:
            raise UserError(
                f"{where}: {name!r} is {list(file.weights[name].shape)}, the network has {list(state[name].shape)}"
            )
    model.load_state_dict(file.weights)
    return model


def _say(options: argparse.Namespace, measured: "Evaluation", what: str) -> None:
    if options.json:
        print(json.dumps({"file": str(options.file), **measured._asdict()}))
        return
    print(f"{options.file}: {what}")
    print(f"top-1    {measured.top1:.2%}")
    print(f"top-5    {measured.top5:.2%}")
    print(f"loss     {measured.loss:.4f}")
    print(f"samples  {measured.samples:,}")


def _parser() -> Parser:
    parser = Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} FILE [--data.OPTION VALUE ...] [--model.arch ARCH] [options]",
        description="Measure top-1, top-5 and loss of a file of weights on a validation set. Under torchrun, all "
        "ranks share the work.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the weights")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="compute type (fp32)")
    parser.add_argument("--batch", type=_batch, default=250, metavar="N", help="samples a rank holds at once (250)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with fractions")
    add_plugins(parser)
    return parser


def _batch(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {1 << 16}")
    return int(text)
