"""Compare exact selection of the k-th smallest score with torch's sort, topk and kthvalue, on ResNet-34's size.

    python benchmarks/selection.py [--device cuda] [--numel 21779648] [--repeats 20] [--skip kthvalue]

Ours is `select` (the threshold) and `prune` (the whole step from scores to new masks); the others find the threshold in
one flat tensor, whose making is not timed. All are timed in turns, with the result read to the host each time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import exact_count, prune, select


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--numel", type=int, default=21_779_648, help="scores in all (ResNet-34's prunable weights)")
    parser.add_argument("--tensors", type=int, default=37, help="tensors they lie in")
    parser.add_argument("--fraction", type=float, default=0.2, help="fraction to select")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="columns to leave out, by name")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    table = Table(title=f"{arguments.numel:,} scores in {arguments.tensors} tensors on {device_name(arguments.device)}")
    for heading in ("scores", "method", "median ms", "fastest ms", "sort / it", "threshold"):
        table.add_column(heading, justify="left" if heading in ("scores", "method") else "right")
    for kind in ("normal", "all equal"):
        rows = measure(kind, arguments)
        slowest = statistics.median(rows["sort"][0]) if "sort" in rows else float("nan")
        for method, (times, threshold) in rows.items():
            median = statistics.median(times)
            table.add_row(
                kind, method, f"{median:.2f}", f"{min(times):.2f}", f"{slowest / median:.2f}", f"{threshold:.9g}"
            )
    Console().print(table)


def device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, tuple[list[float], float]]:
    """Measure the milliseconds of every repeat, and the threshold, by method."""
    sizes = [arguments.numel // arguments.tensors] * arguments.tensors
    sizes[-1] += arguments.numel - sum(sizes)
    generator = torch.Generator(arguments.device).manual_seed(0)
    if kind == "normal":
        flat = torch.randn(arguments.numel, generator=generator, device=arguments.device).abs()
    else:
        flat = torch.ones(arguments.numel, device=arguments.device)
    scores = dict(zip((f"w{i}" for i in range(len(sizes))), torch.split(flat, sizes), strict=True))
    masks = Masks({name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()})
    k = exact_count(arguments.fraction, arguments.numel)

    def ours() -> float:
        return select(list(scores.values()), list(masks.values()), k).score

    def whole_pruning() -> float:
        pruned = prune(masks, scores, k)
        return pruned.kept / pruned.total  # the density: not a threshold, but it reads the result

    def read(value: Tensor) -> float:
        return float(value)

    methods: dict[str, Callable[[], float]] = {
        "select (ours)": ours,
        "prune (ours; density)": whole_pruning,
        "sort": lambda: read(flat.sort().values[k - 1]),
        "topk": lambda: read(flat.topk(k, largest=False, sorted=False).values.max()),
        "kthvalue": lambda: read(flat.kthvalue(k).values),
    }
    methods = {name: method for name, method in methods.items() if name not in arguments.skip}
    results: dict[str, tuple[list[float], float]] = {name: ([], method()) for name, method in methods.items()}
    for _ in range(arguments.repeats):
        for name, method in methods.items():
            if flat.is_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            method()
            results[name][0].append(1e3 * (time.perf_counter() - start))
    exact = {threshold for name, (_, threshold) in results.items() if "density" not in name}
    assert len(exact) == 1, f"the methods disagree: {exact}"
    return results


if __name__ == "__main__":
    main()
