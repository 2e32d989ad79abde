"""The contract and base classes of loaders; tests/data/test_contract.py checks every loader."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from elth_dist.data.options import DataOptions
from elth_dist.data.sampling import TrainPlan, ValPlan
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks


class Batch(NamedTuple):
    """One micro-batch of one rank."""

    images: Tensor  # [B, 3, H, W], channels_last, compute dtype, on the rank's device, normalised
    labels: Tensor  # [B] int64, on the rank's device; -1 marks padding, which counts nowhere (validation only)
    indices: Tensor  # [B] int64, on the CPU: position in the sorted dataset; -1 marks padding


class TrainLoader(ABC):
    """An endless stream of micro-batches over the epochs; its whole state is the position of the next micro-batch.

    The samples of optimizer step t (in epoch t // steps_per_epoch) depend only on (seed, t): the global batch is the
    same for any world size and accumulation; rank w of W takes its w-th run of global_batch / W, cut into `accumulate`
    micro-batches. Augmentation depends only on (seed, epoch, index). The incomplete global batch at the end of an epoch
    is dropped.
    """

    def __init__(self, plan: TrainPlan, source: Mapping[str, Any]) -> None:
        """
        Args:
            plan: the order of samples.
            source: JSON values that determine the pixels (the dataset's fingerprint and its options).
        """
        self.plan = plan
        self.steps_per_epoch = plan.steps_per_epoch
        self._position = 0
        self._identity = {
            **source,
            "seed": plan.seed,
            "train.global_batch": plan.global_batch,
            "train.accumulate": plan.accumulate,
            "world size": plan.world_size,
        }

    def seek(self, step: int) -> None:
        """Set the position to the first micro-batch of optimizer step `step`."""
        self._position = step * self.plan.accumulate

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch = self._fetch(self._position)
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches handed out (not those prefetched), and the identity of the stream.

        JSON values only; equal on every rank.
        """
        step, micro = divmod(self._position, self.plan.accumulate)
        return {"step": step, "micro": micro, "stream": dict(self._identity)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly there. UserError names the first of data, options or world size that differs."""
        theirs = state["stream"]
        for name in sorted(self._identity.keys() | theirs.keys()):
            if theirs.get(name) != self._identity.get(name):
                raise UserError(
                    f"checkpoint: the data stream was made with {name} {theirs.get(name)!r}, "
                    f"but this run has {self._identity.get(name)!r}; continue with the same value, or start a new run"
                )
        self._position = state["step"] * self.plan.accumulate + state["micro"]

    def close(self) -> None:  # noqa: B027 - most loaders hold nothing to release
        """Release threads and memory."""

    @abstractmethod
    def _fetch(self, position: int) -> Batch:
        """Return this rank's micro-batch number `position`, counted over all epochs; positions come in any order."""


class ValLoader(ABC):
    """Yields every validation sample once over all ranks, in equally many batches of equal shape on every rank."""

    def __init__(self, plan: ValPlan) -> None:
        self.plan = plan
        self.num_samples = plan.num_samples  # of the whole validation set, over all ranks

    def __iter__(self) -> Iterator[Batch]:
        return (self._fetch(position) for position in range(self.plan.batches))

    def close(self) -> None:  # noqa: B027 - most loaders hold nothing to release
        """Release threads and memory."""

    @abstractmethod
    def _fetch(self, position: int) -> Batch:
        """Return this rank's batch number `position` of a pass."""


class Dataset(ABC):
    """A dataset, opened once per run, which makes new loaders for each job.

    A subclass sets the attributes below. None of its methods is collective.
    """

    fingerprint: str  # of the contents: equal for all copies of a dataset, in any folder
    num_classes: int
    num_train: int
    num_val: int

    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype) -> None:
        """
        Args:
            options: the dataset's options; `threads` is set.
            ranks: this process and its collectives.
            dtype: compute dtype of the images.
        """
        self.image_size = options.image_size
        self._options = options
        self._ranks = ranks
        self._dtype = dtype

    def train_loader(self, *, seed: int, global_batch: int, accumulate: int = 1) -> TrainLoader:
        """Make a training stream that starts at step 0.

        Raises:
            UserError: the ranks cannot share `global_batch`, or it exceeds the training set.
        """
        ranks = self._ranks
        plan = TrainPlan(seed, self.num_train, global_batch, accumulate, ranks.rank, ranks.world_size)
        source = {"dataset": self.fingerprint}
        for name, value in self._options.identity().items():
            source[f"data.{name}"] = value
        return self._train(plan, source)

    def val_loader(self, *, batch: int) -> ValLoader:
        """Make a validation loader. `batch`: most samples per rank and batch; smaller batches if that saves padding."""
        return self._val(ValPlan(self.num_val, batch, self._ranks.rank, self._ranks.world_size))

    @abstractmethod
    def _train(self, plan: TrainPlan, source: Mapping[str, Any]) -> TrainLoader: ...

    @abstractmethod
    def _val(self, plan: ValPlan) -> ValLoader: ...


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small CPU tensor to `device` without blocking the host."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)
