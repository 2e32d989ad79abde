"""Compare the step time and memory of DDP and DeepSpeed's ZeRO 0 to 3, on the same networks, ranks and batches.

    python benchmarks/engines.py [--ranks 2] [--archs resnet18 resnet101] [--batch 32] [--size 64] [--steps 5]

Each engine trains each network in its own processes, one engine after the other: step time is the median over steps
(after two for warm-up) of the slowest rank, memory the highest peak of any rank: on GPUs what torch allocated, on CPUs
the growth of the process since before the network was placed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from elth_dist.engines.create import create_engine
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.models.build import build_model
from elth_dist.runtime.ranks import open_ranks
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.training.masked import MaskedSGD

ENGINES = {"ddp": {"name": "ddp"}} | {f"ZeRO {n}": {"name": "deepspeed", "zero_stage": n} for n in range(4)}
DENSITY = 0.2621  # of the paper's sixth level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count() if on_gpu else 2)
    parser.add_argument("--archs", nargs="+", default=["resnet18", "resnet101"])
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 4, help="images per rank")
    parser.add_argument("--size", type=int, default=224 if on_gpu else 64, help="side of the images in pixels")
    parser.add_argument("--precision", default="bf16" if on_gpu else "fp32")
    parser.add_argument("--steps", type=int, default=30 if on_gpu else 5)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        measure(arguments)
        return
    table = Table(title=f"{arguments.ranks} ranks, {arguments.batch} images of {arguments.size} px each")
    for column in ("network", "engine", "step ms", "x ddp", "peak MiB per rank", "x ddp"):
        table.add_column(column, justify="left" if column in ("network", "engine") else "right")
    for arch in arguments.archs:
        first: dict[str, float] = {}
        for engine in ENGINES:
            cost = run(arguments, arch, engine)
            first = first or cost
            values = [f"{cost[key]:,.0f}|{cost[key] / first[key]:.2f}" for key in ("ms", "mib")]
            table.add_row(arch, engine, *"|".join(values).split("|"))
    Console().print(table)


def run(arguments: argparse.Namespace, arch: str, engine: str) -> dict[str, float]:
    """Run one contender in new processes; return the last line that rank 0 printed."""
    options = {name: str(getattr(arguments, name)) for name in ("batch", "size", "precision", "steps")}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.ranks}"]
    line += [__file__, f"--archs={arch}", f"--contender={engine}", *(f"--{k}={v}" for k, v in options.items())]
    done = subprocess.run(
        line, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def measure(arguments: argparse.Namespace) -> None:
    """Run this rank's part of one contender's training."""
    numerics = Numerics(arguments.precision)
    with open_ranks() as ranks, numerics.applied():
        on_gpu = ranks.device.type == "cuda"
        options: Any = ENGINES[arguments.contender]
        engine = create_engine(EngineOptions(**options), ranks, numerics)
        model = build_model(arguments.archs[0], 1000, seed=0)
        generator = torch.Generator().manual_seed(1)
        weights = prunable_weights(model)
        masks = Masks({name: torch.rand(w.shape, generator=generator) < DENSITY for name, w in weights.items()})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        shape = (arguments.batch, 3, arguments.size, arguments.size)
        engine.prepare(
            model, lambda placed: MaskedSGD(placed.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4), shape
        )
        placed = prunable_weights(engine.model)
        engine.optimizer.set_masks({placed[name]: mask for name, mask in masks.items()})
        images = torch.randn(shape, device=ranks.device).to(memory_format=torch.channels_last)
        labels = torch.arange(arguments.batch, device=ranks.device)
        seconds = []
        for _ in range(arguments.steps + 2):
            ranks.barrier()
            start = time.perf_counter()
            with engine.micro_step(last=True):
                engine.backward(F.cross_entropy(engine.forward(images), labels))
            engine.finish_gradients()
            engine.step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mib = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else (after - before) / 2**10
        everyone = ranks.gather_json([seconds[2:], mib])
        if ranks.is_main:
            slowest = [max(times) for times in zip(*(own for own, _ in everyone), strict=True)]
            print(json.dumps({"ms": 1e3 * statistics.median(slowest), "mib": max(peak for _, peak in everyone)}))


if __name__ == "__main__":
    main()
