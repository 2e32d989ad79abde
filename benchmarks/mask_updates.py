"""Measure the cost of changing masks: steps at which masks change, steps between, and steps with static masks.

    python benchmarks/mask_updates.py [--device cuda] [--arch resnet18] [--batch 256] [--precision bf16] [--rounds 20]

One network per row, all with the same weights and batches, timed in turns in an order that changes each round; the
fastest round counts, since other load only adds time. First static masks, then each mask update, at a step that leaves
the masks (`between`) and at a step that changes them, including the ranks' comparison of masks (`at`). `share` is the
time that changes add to a training with the usual interval. Below, only RigL's choice for all layers: our exact
selection compared with the sorting of public implementations.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from elth_dist.engines.create import create_engine
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.models.build import architecture_of, build_model
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.updates import AnyMaskUpdate, MaskUpdate, Updater
from elth_dist.sparsity.updates.drop_and_grow import drop_and_grow, random_masks
from elth_dist.sparsity.updates.static import StaticMask
from elth_dist.training.masked import MaskedSGD

TOTAL = 1 << 20  # steps of the assumed training; the measured steps are near its start
#: Each update, the option that holds its interval, and what else it is made with.
UPDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "rigl": ("delta_t", {}),
    "set": ("delta_t", {}),
    "snfs": ("delta_t", {}),
    "gradual": ("every", {"begin": 0.0}),
    "dpf": ("every", {}),
}


class Contender:
    """A network in training; `step` takes the next step."""

    def __init__(self, ranks: Ranks, arguments: argparse.Namespace, update: Callable[[Masks], Updater]) -> None:
        self._engine = create_engine(EngineOptions(), ranks, Numerics(arguments.precision))
        shape = (arguments.batch, 3, arguments.size, arguments.size)
        self._engine.prepare(
            build_model(arguments.arch, 1000, seed=0), lambda model: MaskedSGD(model.parameters(), 0.01, 0.9), shape
        )
        excluded = architecture_of(self._engine.model).excluded
        self._update = update(Masks.dense(self._engine.model, excluded))
        self._update.begin(self._engine.masked(prunable_weights(self._engine.model, excluded)))
        self._number = 0

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take a step as the training loop does."""
        self._number += 1
        with self._update.computing(), self._engine.micro_step(last=True):
            self._engine.backward(F.cross_entropy(self._engine.forward(images), labels))
        finite = self._engine.finish_gradients()
        if self._update.before_step(self._number, finite):
            self._engine.optimizer.skip_next()
        self._engine.step()
        self._update.after_step(self._number, finite)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--density", type=float, default=0.262144, help="kept fraction (the paper's six levels)")
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 4)
    parser.add_argument("--size", type=int, default=224 if on_gpu else 64, help="side of the images in pixels")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if on_gpu else "fp32")
    parser.add_argument("--rounds", type=int, default=20 if on_gpu else 5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ranks = Ranks(device=torch.device(arguments.device))

    console = Console()
    where = torch.cuda.get_device_name(ranks.device) if on_gpu else f"CPU, {arguments.threads} threads"
    console.print(
        f"{arguments.arch}, density {arguments.density}, batch {arguments.batch} of {arguments.size} px, "
        f"{arguments.precision}, on {where}, torch {torch.__version__}"
    )
    with Numerics(arguments.precision).applied():
        times = measure(contenders(ranks, arguments), arguments, ranks.device)
    static = min(times["static"])
    table = Table("masks", *(f"{heading}, ms" for heading in ("between", "at")), "every", "share", title="step")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("static", f"{static:.2f}", "-", "-", "-")
    for name, (interval, _) in UPDATES.items():
        between, at = (min(times[f"{name} {when}"]) for when in ("between", "at"))
        usual = getattr(options_of(name), interval)
        added = (between - static + max(0.0, at - between) / usual) / static
        table.add_row(name, f"{between:.2f}", f"{at:.2f}", str(usual), f"{added:+.2%}")
    console.print(table)
    console.print(selection_table(arguments, ranks.device))


def options_of(name: str, **more: Any) -> MaskUpdate:
    options: MaskUpdate = TypeAdapter[Any](AnyMaskUpdate).validate_python({"name": name, **more})
    return options


def contenders(ranks: Ranks, arguments: argparse.Namespace) -> dict[str, Contender]:
    def changing(name: str, interval: int) -> Callable[[Masks], Updater]:
        option, more = UPDATES[name]
        return lambda dense: options_of(name, **more, **{option: interval}).create(
            dense,
            density=arguments.density,
            seed=0,
            total_steps=TOTAL,
            steps_per_epoch=TOTAL,
            agree=lambda masks: ranks.require_equal("masks", masks.hashes()),
        )

    def static(dense: Masks) -> Updater:
        return StaticMask(random_masks(dense, _counts(dense, arguments.density), 0))

    made = {"static": Contender(ranks, arguments, static)}
    for name in UPDATES:
        made[f"{name} between"] = Contender(ranks, arguments, changing(name, TOTAL))
        made[f"{name} at"] = Contender(ranks, arguments, changing(name, 1))
    return made


def measure(
    contenders: dict[str, Contender], arguments: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Measure the milliseconds per step in every round, by contender."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    images = torch.randn(shape, generator=generator, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(arguments.batch, device=device) % 1000
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-3, arguments.rounds):  # the first ones warm up
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took = timed(lambda name=name: contenders[name].step(images, labels), device)
            if turn >= 0:
                times[name].append(took)
    return times


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def selection_table(arguments: argparse.Namespace, device: torch.device) -> Table:
    """Time RigL's choice in all layers, by our selection and by two sorts per layer."""
    weights = {
        name: weight.detach().to(device) for name, weight in prunable_weights(build_model(arguments.arch, 1000)).items()
    }
    dense = Masks.dense({name: tuple(weight.shape) for name, weight in weights.items()})
    masks = random_masks(dense, _counts(dense, arguments.density), 0).to(device)
    gradients = {name: torch.randn_like(weight).abs() for name, weight in weights.items()}
    counts = {name: int(0.3 * kept) for name, kept in masks.counts.items()}

    def by_sorting(mask: Tensor, weight: Tensor, growth: Tensor, count: int) -> Tensor:
        made = mask.flatten().clone()
        made[weight.abs().masked_fill(~mask, torch.inf).flatten().sort(stable=True).indices[:count]] = False
        grown = growth.flatten().masked_fill(made, -1).sort(stable=True, descending=True).indices[:count]
        made[grown] = True
        return made.view(mask.shape)

    choices = {"exact selection (ours)": drop_and_grow, "two sorts": by_sorting}
    times: dict[str, list[float]] = {what: [] for what in choices}
    for turn in range(-1, arguments.rounds):
        for what, choose in choices.items():

            def all_layers(choose: Callable[..., Tensor] = choose) -> dict[str, Tensor]:
                return {n: choose(masks[n], weights[n], gradients[n], counts[n]) for n in masks}

            took = timed(all_layers, device)
            if turn >= 0:
                times[what].append(took)
    table = Table("RigL's choice, all layers", "ms")
    for what, milliseconds in times.items():
        table.add_row(what, f"{min(milliseconds):.2f}")
    for name in masks:
        one, other = (choose(masks[name], weights[name], gradients[name], counts[name]) for choose in choices.values())
        assert torch.equal(one, other), name
    return table


def _counts(dense: Masks, density: float) -> dict[str, int]:
    return {name: round(density * mask.numel()) for name, mask in dense.items()}


if __name__ == "__main__":
    main()
