"""Masks on weights of which no rank holds the whole."""

from collections.abc import Callable, Mapping

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

    def _multipliers_of(self, masks: Masks) -> list[Tensor]:
        if self._sharded.computes_with_masters:
            return self._sharded.flat({self._parameters[name]: mask for name, mask in masks.items()})
        self._sharded.publish()  # no step need have been since other masks were on the copy
        return [torch.empty_like(p).copy_(masks[name]) for name, p in self._parameters.items()]

    def _swap_in(self) -> tuple[list[Tensor], list[Tensor]]:
        if not self._sharded.computes_with_masters:
            copies: list[Tensor] = list(self._parameters.values())
            torch._foreach_mul_(copies, self._multipliers)
            return [], []
        partitions = list(self._sharded.partitions)
        dense = [partition.detach().clone() for partition in partitions]
        for partition, kept in zip(partitions, self._multipliers, strict=True):
            partition.mul_(kept)
        self._sharded.publish()
        return partitions, dense

    def _computed_not_zero(self) -> list[str]:
        if self._computing is None or not self._sharded.computes_with_masters:
            return super()._computed_not_zero()
        wrong = self._sharded.wrong(self._sharded.partitions, self._multipliers, self._names)
        return [self._names[parameter] for parameter in wrong]
