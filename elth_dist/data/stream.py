"""What the three loaders have in common: where a stream stands, and that it is continued with the same data only."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from elth_dist.data.protocol import Batch
from elth_dist.data.sampling import TrainPlan, ValPlan
from elth_dist.errors import UserError


class TrainStream(ABC):
    """A TrainLoader (see protocol.py) around `_fetch`: its whole state is the position of the next micro-batch."""

    def __init__(self, plan: TrainPlan, source: Mapping[str, Any]) -> None:
        """
        Args:
            plan: which samples come when.
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
        """The next micro-batch will be the first one of optimizer step `step`."""
        self._position = step * self.plan.accumulate

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch = self._fetch(self._position)
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position and what it is a position in. Equal on every rank."""
        step, micro = divmod(self._position, self.plan.accumulate)
        return {"step": step, "micro": micro, "stream": dict(self._identity)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly there. UserError naming the first thing that differs."""
        theirs = state["stream"]
        for name in sorted(self._identity.keys() | theirs.keys()):
            if theirs.get(name) != self._identity.get(name):
                raise UserError(
                    f"checkpoint: the data stream was made with {name} {theirs.get(name)!r}, "
                    f"but this run has {self._identity.get(name)!r}; continue with the same, or start a new run"
                )
        self._position = state["step"] * self.plan.accumulate + state["micro"]

    def close(self) -> None:  # noqa: B027 - most streams hold nothing to give back
        """Give back threads and memory."""

    @abstractmethod
    def _fetch(self, position: int) -> Batch: ...


class ValStream(ABC):
    """A ValLoader (see protocol.py) around `_fetch`."""

    def __init__(self, plan: ValPlan) -> None:
        self.plan = plan
        self.num_samples = plan.num_samples

    def __iter__(self) -> Iterator[Batch]:
        return (self._fetch(position) for position in range(self.plan.batches))

    def close(self) -> None:  # noqa: B027 - most streams hold nothing to give back
        """Give back threads and memory."""

    @abstractmethod
    def _fetch(self, position: int) -> Batch: ...


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on `device` without making the host wait for it."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)
