"""Masks on sharded weights: no rank holds a whole weight."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from elth_dist.engines.shards import ShardedOptimizer
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masked_weights import MaskedWeights
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import prune_by, prune_fragments


class ShardedWeights(MaskedWeights):
    """Masked weights in shards: each rank holds stretches, and gathers one layer at a time where an update needs it.

    Selection works on the stretches, without a gather. The network computes with copies of the master weights, whole on
    every rank (stages 1 and 2) or sharded too (stage 3): DPF masks the copies, and the optimizer's step rewrites them.

    `loss_scale` returns the factor that gradients are currently multiplied by.
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
        self._sharded.publish()  # the copies may still carry other masks, if no step has come since
        return self._sharded.multipliers(self._by_parameter(masks))

    def _swap_in(self) -> None:
        self._sharded.multiply(self._parameters.values(), self._multipliers)

    def _swap_out(self) -> None:
        """Do nothing: the master weights have not changed."""

    def _computed_not_zero(self) -> list[str]:
        """Check the copies that the network computes with, which must be masked like the master weights."""
        masks = self._computing or self._installed
        if masks is None:
            return []
        if not self._sharded.shares_weights:
            return masks.check_zero(self._parameters)
        copies = self._sharded.computed_with([])
        wrong = self._sharded.wrong(copies, self._sharded.flat(self._by_parameter(masks)), self._names)
        return [self._names[parameter] for parameter in wrong]
