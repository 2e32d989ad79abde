"""From options to an open dataset: what is read once a run, and the loaders made from it for each job."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch

from elth_dist.data.catalog import Catalog, Split, check_data, python_batches, reading, scan
from elth_dist.data.digits import write_digits
from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Dataset, TrainLoader, ValLoader
from elth_dist.data.sampling import TrainPlan, ValPlan
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks

__all__ = ["check_data", "open_dataset"]


def open_dataset(options: DataOptions, ranks: Ranks, *, default_root: Path, dtype: torch.dtype) -> Dataset:
    """Open the dataset that `options` name. Collective: rank 0 looks (and writes the digits), all ranks agree.

    Args:
        options: what to read and how.
        ranks: this process among all.
        default_root: where the digits go when `data.root` is not given.
        dtype: compute dtype of the images (float32, bfloat16 or float16).

    Raises:
        UserError: on every rank, for whatever is wrong with the files.
    """
    if options.threads is None:
        options = options.model_copy(update={"threads": _threads()})
    if options.loader == "synthetic":
        return _Synthetic(options, ranks, dtype)
    with ranks.together():
        check_data(options)
    if options.name == "cifar10" and options.root is not None:
        parent = python_batches(options.root)
        if parent is not None:
            return _Resident(options, ranks, dtype, parent)
    catalog = _catalog(options, ranks, default_root)
    if options.loader == "resident":
        return _Resident(options, ranks, dtype, catalog)
    if options.verify == "decode":
        _verify(catalog, options, ranks)
    return _Dali(options, ranks, dtype, catalog)


class _Opened(ABC):
    """What every dataset shares; see protocol.Dataset."""

    num_classes: int
    num_train: int
    num_val: int
    fingerprint: str

    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype) -> None:
        self.image_size = options.image_size
        self._options = options
        self._ranks = ranks
        self._dtype = dtype

    def train_loader(self, *, seed: int, global_batch: int, accumulate: int = 1) -> TrainLoader:
        """An endless stream from step 0. UserError if the ranks cannot share `global_batch`, or it exceeds the set."""
        ranks = self._ranks
        plan = TrainPlan(seed, self.num_train, global_batch, accumulate, ranks.rank, ranks.world_size)
        source = {"dataset": self.fingerprint}
        for name, value in self._options.identity().items():
            source[f"data.{name}"] = value
        return self._train(plan, source)

    def val_loader(self, *, batch: int) -> ValLoader:
        """The whole validation set once a pass; a rank holds at most `batch` samples at once."""
        return self._val(ValPlan(self.num_val, batch, self._ranks.rank, self._ranks.world_size))

    @abstractmethod
    def _train(self, plan: TrainPlan, source: dict[str, Any]) -> TrainLoader: ...

    @abstractmethod
    def _val(self, plan: ValPlan) -> ValLoader: ...


class _Synthetic(_Opened):
    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype) -> None:
        from elth_dist.data.synthetic import make_bank

        super().__init__(options, ranks, dtype)
        assert options.num_classes is not None
        assert options.num_train is not None
        assert options.num_val is not None
        self.num_classes = options.num_classes
        self.num_train = options.num_train
        self.num_val = options.num_val
        self.fingerprint = "synthetic"
        self._bank = make_bank(options.image_size, ranks.device, dtype)

    def _train(self, plan: TrainPlan, source: dict[str, Any]) -> TrainLoader:
        from elth_dist.data.synthetic import SyntheticTrain

        return SyntheticTrain(self._bank, self.num_classes, plan, source)

    def _val(self, plan: ValPlan) -> ValLoader:
        from elth_dist.data.synthetic import SyntheticVal

        return SyntheticVal(self._bank, self.num_classes, plan)


class _Resident(_Opened):
    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype, found: Path | Catalog) -> None:
        """`found`: a tree of images, or the folder that holds CIFAR-10's python batches."""
        from elth_dist.data import resident

        super().__init__(options, ranks, dtype)
        with ranks.together():
            if isinstance(found, Path):
                self.num_classes = 10
                train, val = resident.read_python_batches(found)
                if options.image_size != train.pixels.shape[1]:
                    raise UserError(
                        f"data.image_size: {options.image_size}, but CIFAR-10's python batches hold images of "
                        f"{train.pixels.shape[1]} px"
                    )
            else:
                self.num_classes = len(found.classes)
                assert options.threads is not None
                train, val = (
                    resident.decode(
                        split,
                        resize=options.resize,
                        image_size=options.image_size,
                        threads=options.threads,
                        rank=ranks.rank,
                        world_size=ranks.world_size,
                    )
                    for split in (found.train, found.val)
                )
        train, val = train.to(ranks.device), val.to(ranks.device)
        if isinstance(found, Catalog):  # each rank has decoded its share
            ranks.sum_(train.pixels)
            ranks.sum_(val.pixels)
        self.num_train, self.num_val = len(train.labels), len(val.labels)
        self.fingerprint = f"{train.fingerprint}{val.fingerprint}"
        self._train_images, self._val_images = train, val

    def _train(self, plan: TrainPlan, source: dict[str, Any]) -> TrainLoader:
        from elth_dist.data.resident import ResidentTrain

        return ResidentTrain(self._train_images, plan, self._options, source, self._dtype)

    def _val(self, plan: ValPlan) -> ValLoader:
        from elth_dist.data.resident import ResidentVal

        return ResidentVal(self._val_images, plan, self._options, self._dtype)


class _Dali(_Opened):
    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype, catalog: Catalog) -> None:
        super().__init__(options, ranks, dtype)
        self.num_classes = len(catalog.classes)
        self.num_train, self.num_val = len(catalog.train), len(catalog.val)
        self.fingerprint = catalog.fingerprint
        self._catalog = catalog

    def _train(self, plan: TrainPlan, source: dict[str, Any]) -> TrainLoader:
        from elth_dist.data.dali import DaliTrain

        return DaliTrain(self._catalog.train, plan, self._options, source, self._ranks.device, self._dtype)

    def _val(self, plan: ValPlan) -> ValLoader:
        from elth_dist.data.dali import DaliVal

        return DaliVal(self._catalog.val, plan, self._options, self._ranks.device, self._dtype)


def _catalog(options: DataOptions, ranks: Ranks, default_root: Path) -> Catalog:
    found: Catalog | None = None
    with ranks.together():
        if ranks.is_main:
            root = options.root
            if options.name == "digits":
                with reading():
                    root = write_digits(root or default_root, options.image_size)
            assert root is not None  # check_data has asked for it
            found = scan(root)
    if ranks.alone and found is not None:
        return found
    return Catalog.from_json(ranks.broadcast_json(found.to_json() if found else None))


def _verify(catalog: Catalog, options: DataOptions, ranks: Ranks) -> None:
    from elth_dist.data.dali import undecodable

    splits: tuple[Split, Split] = (catalog.train, catalog.val)
    paths = [split.path(index) for split in splits for index in range(ranks.rank, len(split), ranks.world_size)]
    found = [f"{path} ({reason})" for path, reason in undecodable(paths, options, ranks.device)]
    everywhere = sorted(text for part in ranks.gather_json(found) for text in part)
    if everywhere:
        more = f" and {len(everywhere) - 5} more" if len(everywhere) > 5 else ""
        raise UserError(f"data.root: these images do not decode: {', '.join(everywhere[:5])}{more}")


def _threads() -> int:
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(16, max(1, len(os.sched_getaffinity(0)) // local_ranks))
