"""Compare the images per second of each loader with torchvision's ImageFolder and DataLoader on the same files.

    python benchmarks/loaders.py --root DIR [--batch 64] [--threads N] [--batches 16] [--rounds 5]

DIR holds train/ and val/, one folder per class. All do the same work: decode, RandomResizedCrop to 224 px, flip,
normalise, and copy the batch channels_last to the device. They take turns in each round, so that the machine's changing
load affects all; the table shows medians over the rounds, and the median of the ratios per round.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision import datasets, transforms

from elth_dist.data import DataOptions, data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.runtime.ranks import Ranks

PEER = "torchvision ImageFolder + DataLoader"


def ours(options: DataOptions, batch: int, device: torch.device) -> Iterator[Tensor]:
    """Yield training batches of one of our loaders."""
    dataset = open_dataset(options, Ranks(device=device), default_root=Path(), dtype=torch.float32)
    for images, _, _ in dataset.train_loader(seed=0, global_batch=batch):
        yield images


def torchvision(root: Path, batch: int, threads: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the same batches as torchvision's users make them."""
    options = data_options(name="imagenet")
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(options.image_size, options.scale, options.ratio),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(options.mean, options.std),
        ]
    )
    folder = datasets.ImageFolder(str(root / "train"), transform)
    sampler = RandomSampler(folder, replacement=True, num_samples=1 << 40)  # no pause between epochs
    loader = DataLoader(
        folder, batch, sampler=sampler, num_workers=threads, drop_last=True, pin_memory=device.type == "cuda"
    )
    for images, _ in loader:
        yield images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)


def images_per_second(batches: Iterator[Tensor], count: int, batch: int, drain: int, device: torch.device) -> float:
    """Measure the steady speed, after draining what was prefetched during the others' turns."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(drain):
        next(batches)
    wait()
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    wait()
    return count * batch / (time.perf_counter() - start)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads, or workers")
    parser.add_argument("--batches", type=int, default=16, help="batches counted per turn")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    torch.set_num_threads(chosen.threads)

    files = data_options(name="imagenet", root=chosen.root, threads=chosen.threads)
    memory = data_options(
        name="folder", loader="resident", augment="pad_crop", pad=28, root=chosen.root, threads=chosen.threads
    )
    contestants = {
        PEER: torchvision(chosen.root, chosen.batch, chosen.threads, device),
        "elth_dist dali": ours(files, chosen.batch, device),
        "elth_dist resident (pad_crop)": ours(memory, chosen.batch, device),
        "elth_dist synthetic": ours(data_options(name="synthetic"), chosen.batch, device),
    }
    drain = 2 * chosen.threads + 2
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(chosen.rounds + 1):
        for name, batches in contestants.items():
            speed = images_per_second(batches, chosen.batches, chosen.batch, drain, device)
            if turn:  # the first round warms up
                speeds[name].append(speed)

    print(f"batch {chosen.batch}, {chosen.threads} threads or workers, {device}, {chosen.rounds} rounds\n")
    print(f"{'loader':38} {'images/s':>9} {'lowest':>9} {'highest':>9} {'x torchvision':>14}")
    for name, values in speeds.items():
        ratio = statistics.median(value / peer for value, peer in zip(values, speeds[PEER], strict=True))
        print(f"{name:38} {statistics.median(values):9.0f} {min(values):9.0f} {max(values):9.0f} {ratio:14.2f}")


if __name__ == "__main__":
    main()
