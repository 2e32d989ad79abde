"""Masks on weights of which no rank holds the whole."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from elth_dist.engines.shards import ShardedOptimizer
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import prune_by, prune_fragments
from elth_dist.sparsity.updates.weights import MaskedWeights


class ShardedWeights(MaskedWeights):
    """Masked weights of which each rank holds stretches; a layer at a time is made whole where an update needs it.

    Selection is on the stretches, without a gather. Under stages 1 and 2 every rank holds a whole copy to compute with
    beside the masters: DPF masks that one, and the optimizer's step makes it anew. Under stage 3 both are the same
    memory: the stretches on this rank are swapped.

    `loss_scale` is what gradients are multiplied with at the time of asking.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: ShardedOptimizer,
        ranks: Ranks,
        loss_scale: Callable[[], float],
    ) -> None:
        super().__init__(parameters, optimizer)
        self._sharded, self._ranks, self._loss_scale = optimizer, ranks, loss_scale
        self._computing: Masks | None = None
        self._multiplied: Masks | None = None  # what these multipliers are made from
        self._multipliers: list[Tensor] = []

    def whole(self, name: str) -> Tensor:
        return self._sharded.whole(self._parameters[name])

    def gradient(self, name: str) -> Tensor:
        scale = self._loss_scale()
        gradient = self._sharded.gradient(self._parameters[name])
        return gradient if scale == 1.0 else gradient / scale

    def prune(self, masks: Masks, kept: int | Mapping[str, int]) -> Masks:
        fragments = self._sharded.magnitudes()
        ranks = self._ranks

        def on_shards(some: Masks, k: int) -> Masks:
            own = [fragment for fragment in fragments if fragment.name in some]
            return prune_fragments(some, own, k, ranks.sum_, ranks.gather_json, ranks.broadcast_json)

        return prune_by(masks, kept, on_shards)

    @contextlib.contextmanager
    def computing(self, masks: Masks) -> Iterator[None]:
        with torch.no_grad():
            swapped = self._swap_in(masks)
        self._computing = masks
        try:
            yield
        finally:
            self._computing = None
            with torch.no_grad():
                for partition, dense in swapped:
                    partition.copy_(dense)

    def _swap_in(self, masks: Masks) -> list[tuple[Tensor, Tensor]]:
        """Make the weights to compute with masked ones; returns partitions that are masked too, each with a copy."""
        fresh = self._multiplied is not masks
        self._multiplied = masks
        if self._sharded.computes_with_masters:
            if fresh:
                self._multipliers = self._sharded.flat({self._parameters[name]: mask for name, mask in masks.items()})
            swapped = [(partition, partition.detach().clone()) for partition in self._sharded.partitions]
            for (partition, _), kept in zip(swapped, self._multipliers, strict=True):
                partition.mul_(kept)
            self._sharded.publish()
            return swapped
        if fresh:  # no step need have been since they were masked by others
            self._sharded.publish()
            self._multipliers = [torch.empty_like(p).copy_(masks[name]) for name, p in self._parameters.items()]
        parameters: list[Tensor] = list(self._parameters.values())
        torch._foreach_mul_(parameters, self._multipliers)
        return []

    def _computed_not_zero(self) -> list[str]:
        if self._computing is None:
            return []
        if not self._sharded.computes_with_masters:
            return self._computing.check_zero(self._parameters)
        wrong = self._sharded.wrong(self._sharded.partitions, self._multipliers, self._names)
        return [self._names[parameter] for parameter in wrong]
