"""Count the FLOPs of a running training: exact integers, from the masks in force at every step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from elth_dist.accounting.layers import Network
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.base import step_cost


class Flops(NamedTuple):
    """FLOPs by the `exact` convention: 2 per multiply-accumulate of layers and of attention."""

    train: int  # of all samples of all ranks, so far in this job
    forward: int  # of one sample, with the masks in force
    dense_forward: int  # of one sample, without masks

    def scalars(self, dense_training: int) -> dict[str, float]:
        """Return the reported scalars, relative to one dense training."""
        return {
            "flops/train": float(self.train),
            "flops/train_relative": self.train / dense_training,
            "flops/forward": float(self.forward),
        }


class FlopsMeter:
    """Adds up the cost of training steps; counting a step never waits for the device.

    A step costs 3 f_S per sample, or 2 f_S + f_D if it takes the gradient of all weights (updates.MaskUpdate). Only
    pruned weights make f_S smaller than f_D: products of activations are dense in both. Masks are counted on their
    device when they change, and the counts move to the host when they are read.
    """

    def __init__(self, network: Network, samples: int) -> None:
        """`samples`: per step, over all ranks and micro-batches."""
        self._samples = samples
        self._positions = {layer.weight: layer.positions for layer in network.layers}
        self._sizes = {layer.weight: layer.size for layer in network.layers}
        self._dense = 2 * network.macs
        self._forward = self._dense
        self._train = 0
        self._masks: Masks | None = None
        self._pending: list[_Phase] = []

    def count_step(self, masks: Masks, dense_gradient: bool) -> None:
        """Count a step with these masks in force."""
        phase = self._phase(masks)
        phase.steps += 1
        phase.dense_gradients += dense_gradient

    def read(self, masks: Masks) -> Flops:
        """Return the count so far, and the cost of a forward pass with these masks.

        Waits for the device if masks have changed since the last reading.
        """
        self._phase(masks)
        for phase in self._pending:
            self._forward = self._forward_of(phase)
            sparse = (phase.steps - phase.dense_gradients) * step_cost(self._forward, self._dense)
            updates = phase.dense_gradients * step_cost(self._forward, self._dense, dense_gradient=True)
            self._train += self._samples * (sparse + updates)
            phase.steps = phase.dense_gradients = 0
        del self._pending[:-1]
        return Flops(self._train, self._forward, self._dense)

    def dense_training(self, steps: int) -> int:
        """Compute the cost of `steps` steps without masks."""
        return steps * self._samples * step_cost(self._dense, self._dense)

    def state_dict(self, masks: Masks) -> dict[str, Any]:
        """Return the count so far; `masks` are those in force."""
        return {"train": self.read(masks).train}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from state_dict()'s count."""
        self._train = state["train"]
        self._masks, self._pending = None, []

    def _phase(self, masks: Masks) -> "_Phase":
        if masks is not self._masks:
            self._masks = masks
            self._pending.append(_Phase(masks))
        return self._pending[-1]

    def _forward_of(self, phase: "_Phase") -> int:
        if phase.kept is None:
            phase.kept = phase.counts.tolist()
        pruned = (
            (self._sizes[name] - kept) * self._positions[name]
            for name, kept in zip(phase.names, phase.kept, strict=True)
        )
        return self._dense - 2 * sum(pruned)


class _Phase:
    """Steps under the same masks."""

    def __init__(self, masks: Masks) -> None:
        self.names = list(masks)
        self.counts: Tensor = torch.stack([mask.count_nonzero() for mask in masks.values()])
        self.kept: list[int] | None = None
        self.steps = 0
        self.dense_gradients = 0
