"""Running sums of a training, which stay on the device until they are read."""

from typing import NamedTuple

import torch
from torch import Tensor

from elth_dist.engines.protocol import StepOutcome
from elth_dist.runtime.ranks import Ranks
from elth_dist.training.evaluation import correct_counts


class Reading(NamedTuple):
    """Means over the global batches since the last reading."""

    loss: float
    top1: float
    top5: float
    grad_norm: float  # of the last step
    steps: int
    skipped: int  # steps that were not applied because a gradient was not finite


class Meters:
    """Sums over micro-batches and steps; adding never waits for the device."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        # loss, top-1, top-5, samples of this rank; then, equal on all ranks: steps, skipped steps
        self._sums = torch.zeros(6, dtype=torch.float64, device=ranks.device)
        self._grad_norm = torch.zeros((), dtype=torch.float64, device=ranks.device)

    @torch.no_grad()
    def add_batch(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a micro-batch: its mean loss (0-d), [B, classes] logits and [B] labels."""
        top1, top5 = correct_counts(logits, labels)
        self._sums[:3] += torch.stack([loss.double() * len(labels), top1, top5])
        self._sums[3] += len(labels)

    @torch.no_grad()
    def add_step(self, outcome: StepOutcome) -> None:
        """Count an optimizer step."""
        self._sums[4] += 1
        self._sums[5] += ~outcome.applied
        self._grad_norm.copy_(outcome.grad_norm)

    def read(self) -> Reading:
        """Return means over all ranks since the last reading, and reset. Collective; waits for the device."""
        own_steps = self._sums[4:].clone()
        sums = self._ranks.sum_(self._sums)
        loss, top1, top5, samples, steps, skipped, norm = torch.cat(
            [sums[:4], own_steps, self._grad_norm[None]]
        ).tolist()
        self._sums.zero_()
        return Reading(loss / samples, top1 / samples, top5 / samples, norm, int(steps), int(skipped))

    def state_dict(self) -> dict[str, Tensor]:
        """Return this rank's sums since the last reading."""
        return {"sums": self._sums, "grad_norm": self._grad_norm}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from state_dict()'s sums."""
        self._sums.copy_(state["sums"])
        self._grad_norm.copy_(state["grad_norm"])
