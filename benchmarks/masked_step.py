"""Measure the cost of masks: our masked SGD, plain fused SGD, and masking in each forward pass.

    python benchmarks/masked_step.py [--device cuda] [--arch resnet18] [--batch 256] [--precision bf16] [--rounds 30]

Three networks with the same weights: `dense` (torch.optim.SGD(fused=True), no masks), `masked` (MaskedSGD; what we do)
and `re-masked` (torch.nn.utils.prune, which multiplies each weight by its mask in every forward pass, and plain SGD).
Whole training steps and the optimizer's step alone are timed in turns, in an order that changes each round, so that a
drifting clock falls on all alike; the ratios are medians over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from elth_dist.models.build import build_model
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.training.masked import MaskedSGD

RECIPE: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


class Contender:
    """A network, its optimizer, and its training step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, autocast: AbstractContextManager[object]):
        self.model, self.optimizer, self.autocast = model, optimizer, autocast

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        with self.autocast:
            loss = nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()

    def optimizer_step(self) -> None:
        self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--density", type=float, default=0.2621, help="kept fraction (the paper's six levels: 0.2621)")
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 4)
    parser.add_argument("--size", type=int, default=224 if on_gpu else 64, help="side of the images in pixels")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if on_gpu else "fp32")
    parser.add_argument("--rounds", type=int, default=30 if on_gpu else 10)
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 1, help="steps per measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    generator = torch.Generator(arguments.device).manual_seed(0)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    images = torch.randn(shape, generator=generator, device=arguments.device).to(memory_format=torch.channels_last)
    labels = torch.arange(arguments.batch, device=arguments.device) % 1000
    contenders = make_contenders(arguments, generator)

    console = Console()
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {arguments.threads} threads"
    console.print(
        f"{arguments.arch}, density {arguments.density}, batch {arguments.batch} of {arguments.size} px, "
        f"{arguments.precision}, on {where}, torch {torch.__version__}"
    )
    table = Table()
    for heading in ("what", "contender", "median ms", "x dense"):
        table.add_column(heading, justify="right" if heading in ("median ms", "x dense") else "left")

    def train(contender: Contender) -> None:
        contender.train_step(images, labels)

    for what, work in (("training step", train), ("optimizer alone", Contender.optimizer_step)):
        times = interleaved(contenders, work, arguments)
        for name, own in times.items():
            ratio = statistics.median(a / b for a, b in zip(own, times["dense"], strict=True))
            table.add_row(what, name, f"{statistics.median(own):.3f}", f"{ratio:.4f}")
    console.print(table)


def make_contenders(arguments: argparse.Namespace, generator: torch.Generator) -> dict[str, Contender]:
    def network() -> nn.Module:
        model = build_model(arguments.arch, 1000, seed=0)
        return model.to(arguments.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def contender(model: nn.Module, optimizer: torch.optim.Optimizer) -> Contender:
        bf16 = arguments.precision == "bf16"
        device_type = torch.device(arguments.device).type
        return Contender(model, optimizer, torch.autocast(device_type, torch.bfloat16) if bf16 else nullcontext())

    dense, masked, remasked = network(), network(), network()
    masks = Masks(
        {
            name: torch.rand(p.shape, generator=generator, device=p.device) < arguments.density
            for name, p in prunable_weights(masked).items()
        }
    )
    by_parameter = {parameter: masks[name] for name, parameter in prunable_weights(masked).items()}
    for name in masks:
        module = remasked.get_submodule(name.removesuffix(".weight"))
        mask = masks[name].to(torch.float32)
        if mask.ndim == 4:
            mask = mask.to(memory_format=torch.channels_last)
        torch_prune.custom_from_mask(module, "weight", mask)
    return {
        "dense": contender(dense, torch.optim.SGD(dense.parameters(), **RECIPE, fused=True)),
        "masked (ours)": contender(masked, MaskedSGD(masked.parameters(), **RECIPE, masks=by_parameter)),
        "re-masked in forward": contender(remasked, torch.optim.SGD(remasked.parameters(), **RECIPE, fused=True)),
    }


def interleaved(
    contenders: dict[str, Contender], work: Callable[[Contender], None], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Measure the milliseconds per step in every round, by contender."""
    on_gpu = torch.device(arguments.device).type == "cuda"
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, arguments.rounds):  # the first two warm up
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(arguments.steps):
                work(contenders[name])
            if on_gpu:
                torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start) / arguments.steps)
    return times


if __name__ == "__main__":
    main()
