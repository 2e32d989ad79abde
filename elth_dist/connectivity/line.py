"""Error and loss along the straight line between two trained networks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from elth_dist.data.protocol import Batch, Dataset
from elth_dist.engines.batchnorm import has_batchnorm, reestimated_batchnorm
from elth_dist.engines.numerics import Numerics
from elth_dist.runtime.ranks import Ranks
from elth_dist.training.evaluation import Evaluation, means, outcome_sums

#: What is measured at each point: on which data, with which BatchNorm statistics.
KINDS = ("train_running", "train_reestimated", "val_running", "val_reestimated")


def interpolated(one: Mapping[str, Tensor], other: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return (1 - alpha) one + alpha other, BatchNorm's running statistics included; counters come from `one`.

    The ends are exact: alpha 0 gives `one`, alpha 1 gives `other`.

    Args:
        one, other: state_dicts of the same network, on the CPU.
        alpha: in [0, 1].
    """
    assert one.keys() == other.keys(), "not of the same network"
    return {
        name: torch.lerp(value, other[name], alpha) if value.is_floating_point() else value
        for name, value in one.items()
    }


class Samples(NamedTuple):
    """How much data a point on the line is measured on."""

    batch: int  # samples of a global batch of training data
    measured: int  # global batches of training data, augmented as in training, that are measured
    estimating: int  # further global batches, from which BatchNorm's statistics are re-estimated
    val_stride: int  # every so many validation samples one is measured; the order may be by class
    val_batch: int  # validation samples per batch and rank


class LineMeter:
    """Measures points on a line on the same data, with running statistics and with re-estimated ones."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        samples: Samples,
        *,
        seed: int,
        precision: str,
        ranks: Ranks,
        beat: Callable[[], None],
    ) -> None:
        """
        Args:
            model: on the CPU; its weights do not matter.
            dataset: training and validation data.
            samples: how much of it.
            seed: of the order and augmentation of the training data.
            precision: number format of the forward passes (train.precision).
            ranks: share the data.
            beat: called after each batch.
        """
        self._numerics, self._ranks, self._samples, self._beat = Numerics(precision), ranks, samples, beat
        placed: nn.Module = model.to(device=ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model = placed.eval()
        self._train = dataset.train_loader(seed=seed, global_batch=samples.batch)
        self._val = dataset.val_loader(batch=samples.val_batch)

    def measure(self, weights: Mapping[str, Tensor]) -> dict[str, Evaluation]:
        """Return what each of KINDS gives for a state_dict. Collective."""
        self._model.load_state_dict(weights)
        with self._numerics.applied():
            running = [self._evaluate(self._training()), self._evaluate(self._validation())]
            again = running
            if has_batchnorm(self._model):
                self._train.seek(self._samples.measured)
                images = (next(self._train).images for _ in range(self._samples.estimating))
                with reestimated_batchnorm(self._model, self._forward, images, self._ranks):
                    again = [self._evaluate(self._training()), self._evaluate(self._validation())]
        return dict(zip(KINDS, (running[0], again[0], running[1], again[1]), strict=True))

    def close(self) -> None:
        """Release the loaders."""
        self._train.close()
        self._val.close()

    def _training(self) -> Iterator[Batch]:
        self._train.seek(0)
        return (next(self._train) for _ in range(self._samples.measured))

    def _validation(self) -> Iterator[Batch]:
        stride = self._samples.val_stride
        for batch in self._val:
            chosen = (batch.indices % stride == 0) & (batch.indices >= 0)
            places = chosen.nonzero()[:, 0].to(batch.images.device)
            if len(places):
                yield Batch(batch.images[places], batch.labels[places], batch.indices[chosen])

    def _evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        pairs = ((batch.images, batch.labels) for batch in batches)
        return means(self._ranks.sum_(outcome_sums(self._forward, pairs, self._ranks.device)))

    def _forward(self, images: Tensor) -> Tensor:
        with self._numerics.autocasting(self._ranks.device):
            logits: Tensor = self._model(images.contiguous(memory_format=torch.channels_last))
        self._beat()
        return logits.float()
