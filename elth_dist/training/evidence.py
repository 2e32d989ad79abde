"""Measure a network at theta_r for criteria: gradients of the global batch, Hessian products, input norms."""

from collections.abc import Iterable, Mapping
from typing import Self

from torch import Tensor, nn

from elth_dist.accounting.layers import count_layers
from elth_dist.data.protocol import Batch
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.linearised import LinearisedNetwork
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.training.context import Context
from elth_dist.training.gradients import (
    GlobalBatches,
    Sample,
    balanced_sample,
    hessian_gradient_products,
    mean_gradients,
    mean_input_squares,
)
from elth_dist.training.loop import Stopped
from elth_dist.training.options import TrainOptions

# Cost of a measurement per sample, in dense forward passes: 3 for a gradient; a Hessian product needs another gradient
# and a backward pass through it, at twice its cost.
_GRADIENT, _HESSIAN_PRODUCT, _FORWARD = 3, 3 + 6, 1


class NetworkEvidence:
    """The Evidence protocol (sparsity.criteria.base) on a bare network of this rank.

    A measurement sets the mode of the model's BatchNorm and may change its running statistics.
    """

    def __init__(
        self, name: str, model: nn.Module, masks: Masks, train: TrainOptions, seed: int, context: Context
    ) -> None:
        """
        Args:
            name: of the job, for people.
            model: on the ranks' device.
            masks: dense masks of the weights that compete.
            train: sets the global batch and accumulation.
            seed: the run's.
            context: ranks, dataset, and what may interrupt a measurement.
        """
        self.masks = masks
        self.flops = 0  # of all measurements so far, over all ranks
        self._name, self._model, self._train, self._seed, self._context = name, model, train, seed, context
        prunable = prunable_weights(model)
        self._weights: dict[str, nn.Parameter] = {name: prunable[name] for name in masks}
        self._batches: dict[int | None, GlobalBatches] = {}
        self._samples: dict[int, Sample] = {}
        self._linearised: LinearisedNetwork | None = None

    @property
    def model(self) -> nn.Module:
        """The bare network."""
        return self._model

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """The weights that compete, by name."""
        return self._weights

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    @property
    def num_classes(self) -> int:
        """Classes of the dataset."""
        return self._context.dataset.num_classes

    @property
    def global_batch(self) -> int:
        """Samples per global batch."""
        return self._train.global_batch

    def mean_gradients(
        self,
        *,
        batches: int | None,
        training: bool = True,
        temperature: float = 1.0,
        per_class: int | None = None,
    ) -> dict[str, Tensor]:
        """See Evidence."""
        data, samples = self._look(batches, training, _GRADIENT, per_class)
        ranks = self._context.ranks
        return mean_gradients(self._model, self._weights, data, ranks, temperature=temperature, samples=samples)

    def hessian_gradient_products(
        self,
        gradients: Mapping[str, Tensor],
        *,
        batches: int | None,
        training: bool = True,
        temperature: float = 1.0,
        per_class: int | None = None,
    ) -> dict[str, Tensor]:
        """See Evidence."""
        data, samples = self._look(batches, training, _HESSIAN_PRODUCT, per_class)
        ranks = self._context.ranks
        return hessian_gradient_products(
            self._model, self._weights, gradients, data, ranks, temperature=temperature, samples=samples
        )

    def input_norms(self, *, batches: int | None, training: bool = False) -> dict[str, Tensor]:
        """See Evidence."""
        data, _ = self._look(batches, training, _FORWARD)
        squares = mean_input_squares(self._model, self._weights, data, self._context.ranks)
        return {name: square.sqrt().float() for name, square in squares.items()}

    def linearised_gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See Evidence."""
        self._beat()
        self._linearised = self._linearised or LinearisedNetwork(self._model, self._context.dataset.image_size)
        self._count(_GRADIENT)
        return self._linearised.gradients(self.masks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for batches in self._batches.values():
            batches.close()

    def _look(
        self, batches: int | None, training: bool, passes: int, per_class: int | None = None
    ) -> tuple[Iterable[Batch], int | None]:
        """Return a measurement's batches, and how many samples they hold if they are not of one size.

        Counts its `passes` forward passes, and sets the model's mode.
        """
        self._model.train(training)
        if batches not in self._batches:
            self._batches[batches] = GlobalBatches(
                self._context.dataset,
                seed=derive_seed(self._seed, "order", "prune"),
                global_batch=self._train.global_batch,
                accumulate=self._train.accumulate,
                batches=batches,
                beat=self._beat,
            )
        data = self._batches[batches]
        if per_class is None:
            self._count(passes * data.samples)
            return data, None
        if per_class not in self._samples:
            self._samples[per_class] = balanced_sample(
                data, self._context.ranks, per_class=per_class, num_classes=self.num_classes
            )
        sample = self._samples[per_class]
        self._count(passes * sample.total)
        return sample.batches, sample.total

    def _count(self, passes: int) -> None:
        size = self._context.dataset.image_size
        self.flops += passes * 2 * count_layers(self._model, (3, size, size)).macs

    def _beat(self) -> None:
        """Report progress between two passes, on all ranks; raise Stopped on a signal: the job then starts over."""
        self._context.watchdog.beat()
        if self._context.stop.poll():
            raise Stopped(self._name, 0)
