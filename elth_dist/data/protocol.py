"""What a loader promises. tests/data/test_contract.py holds all of them to it."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    """One micro-batch of one rank."""

    images: Tensor  # [B, 3, H, W], channels_last, compute dtype, on the rank's device, normalised
    labels: Tensor  # [B] int64, on the rank's device; -1 marks padding, which counts nowhere (validation only)
    indices: Tensor  # [B] int64, on the CPU: position in the sorted dataset; -1 marks padding


class TrainLoader(Protocol):
    """An endless stream of micro-batches over the epochs.

    The samples of optimizer step t (which lies in epoch t // steps_per_epoch) are a function of (seed, t) alone: the
    global batch is the same for any world size and accumulation; rank w of W takes its w-th run of global_batch / W,
    cut into `accumulate` micro-batches. Augmentation is a function of (seed, epoch, index) alone. The incomplete global
    batch at the end of an epoch is dropped.
    """

    steps_per_epoch: int

    def seek(self, step: int) -> None:
        """The next micro-batch will be the first one of optimizer step `step`."""

    def __next__(self) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands (after the batches handed out, not those prefetched): JSON values only."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly there. UserError if the state is of other data, options or world size."""

    def close(self) -> None:
        """Give back threads and memory."""


class ValLoader(Protocol):
    """Every validation sample exactly once over all ranks; equally many batches of equal shape on every rank."""

    num_samples: int  # of the whole validation set, over all ranks

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None: ...


class Dataset(Protocol):
    """Opened once a run; makes fresh loaders for each job."""

    fingerprint: str  # of the contents: equal for copies of one dataset wherever they lie
    num_classes: int
    num_train: int
    num_val: int
    image_size: int

    def train_loader(self, *, seed: int, global_batch: int, accumulate: int = 1) -> TrainLoader:
        """UserError if the ranks cannot share `global_batch`, or if it exceeds the training set."""

    def val_loader(self, *, batch: int) -> ValLoader:
        """`batch`: samples a rank holds at most at once; batches are smaller where that makes less padding."""
