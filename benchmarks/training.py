"""Compare the images per second of the training loop and a bare torch loop on the same network, data and precision.

    python benchmarks/training.py                      # resnet18, synthetic data, GPU where there is one
    python benchmarks/training.py --arch resnet34 --batch 256 --steps 100 --precision bf16 --compile

Both loops take turns; compare the ratio of their medians, since machines are shared. The bare loop has no masks,
metrics, checkpoints or checks: it is the upper bound for ours.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.data.protocol import TrainLoader
from elth_dist.engines.create import create_engine, image_dtype
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.models.build import build_model
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.updates.static import StaticMask
from elth_dist.training.masked import MaskedSGD
from elth_dist.training.meters import Meters


def ours(args: argparse.Namespace, ranks: Ranks, loader: TrainLoader, density: float) -> Callable[[], None]:
    """Make the step of training.loop from its parts, at a density."""
    engine = create_engine(EngineOptions(), ranks, Numerics(args.precision, compile=args.compile))
    shape = (args.batch, 3, args.size, args.size)
    engine.prepare(build_model(args.arch, 1000, seed=0), lambda m: MaskedSGD(m.parameters(), 0.1, 0.9, 1e-4), shape)
    weights = prunable_weights(engine.model)
    generator = torch.Generator().manual_seed(0)
    kept = {name: torch.rand(w.shape, generator=generator) < density for name, w in weights.items()}
    update = StaticMask(Masks(kept).to(ranks.device))
    update.begin(engine.masked(weights))
    meters = Meters(ranks)

    def step() -> None:
        batch = next(loader)
        with engine.micro_step(last=True):
            logits = engine.forward(batch.images)
            loss = F.cross_entropy(logits, batch.labels)
            engine.backward(loss)
        meters.add_batch(loss.detach(), logits.detach(), batch.labels)
        engine.finish_gradients()
        meters.add_step(engine.step())

    return step


def bare(args: argparse.Namespace, ranks: Ranks, loader: TrainLoader) -> Callable[[], None]:
    """Make a step of only forward, backward and torch's fused SGD."""
    model = build_model(args.arch, 1000, seed=0).to(ranks.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=True)
    forward = torch.compile(model) if args.compile else model
    dtype = image_dtype(args.precision)

    def step() -> None:
        batch = next(loader)
        optimizer.zero_grad()
        with torch.autocast(ranks.device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(forward(batch.images), batch.labels)
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Measure the wall time of `count` steps."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Read the options, and measure under their numerics."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=256 if cuda else 16)
    parser.add_argument("--size", type=int, default=224 if cuda else 64)
    parser.add_argument("--steps", type=int, default=50 if cuda else 4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="bf16" if cuda else "fp32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    with Numerics(args.precision).applied():
        measure(args, cuda)


def measure(args: argparse.Namespace, cuda: bool) -> None:
    """Print a table."""
    ranks = Ranks(device=torch.device("cuda", 0) if cuda else torch.device("cpu"))
    options = data_options(name="synthetic", image_size=args.size)
    dataset = open_dataset(options, ranks, default_root=Path(), dtype=image_dtype(args.precision))
    loader = dataset.train_loader(seed=0, global_batch=args.batch)
    steps = {
        "bare torch": bare(args, ranks, loader),
        "ours, dense": ours(args, ranks, loader, 1.0),
        "ours, density 0.26": ours(args, ranks, loader, 0.262144),
    }
    for step in steps.values():
        seconds(step, 3, ranks.device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, args.steps, ranks.device))
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.arch}, batch {args.batch}, {args.size} px, {args.precision}, compile {args.compile}, {device}")
    reference = statistics.median(times["bare torch"])
    for name, turns in times.items():
        median = statistics.median(turns)
        rate = args.steps * args.batch / median
        spread = f"({min(turns):.2f}..{max(turns):.2f} s)"
        print(f"{name:20} {rate:10.1f} images/s   time x {median / reference:.3f}   {spread}")


if __name__ == "__main__":
    main()
