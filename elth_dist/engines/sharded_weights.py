"""Masks on weights of which no rank holds the whole."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from elth_dist.engines.shards import ShardedOptimizer
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masked_weights import MaskedWeights
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import prune_by, prune_fragments


class ShardedWeights(MaskedWeights):
    """Masked weights of which each rank holds stretches; a layer at a time is made whole where an update needs it.

    Selection is on the stretches, without a gather. What the network computes with is a copy of the masters, whole on
    every rank (stages 1 and 2) or shared out too (stage 3): DPF masks that one, and the optimizer's step makes it anew.

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
        self._sharded.publish()  # no step need have been since other masks were on the copies
        return self._sharded.multipliers(self._by_parameter(masks))

    def _swap_in(self) -> None:
        self._sharded.multiply(self._parameters.values(), self._multipliers)

    def _swap_out(self) -> None:
        """Nothing to do: the masters have stayed as they are."""

    def _computed_not_zero(self) -> list[str]:
        """The copies that the network computes with are others than the masters: masks must have reached them too."""
        masks = self._computing or self._installed
        if masks is None:
            return []
        if not self._sharded.shares_weights:
            return masks.check_zero(self._parameters)
        copies = self._sharded.computed_with([])
        wrong = self._sharded.wrong(copies, self._sharded.flat(self._by_parameter(masks)), self._names)
        return [self._names[parameter] for parameter in wrong]
