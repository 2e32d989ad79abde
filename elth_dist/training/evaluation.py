"""Accuracy on a validation set, each sample counted once over all ranks."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from elth_dist.data.protocol import ValLoader
from elth_dist.engines.protocol import Engine
from elth_dist.runtime.ranks import Ranks


class Evaluation(NamedTuple):
    """Means over the whole validation set; accuracies in [0, 1]."""

    loss: float
    top1: float
    top5: float
    samples: int


def correct_counts(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the [B, classes] logits with their label first, and among the first five (or all, if fewer classes).

    Labels of -1 are never correct. Returns two 0-d float64 tensors.
    """
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return hits[:, 0].sum(dtype=torch.float64), hits.any(dim=1).sum(dtype=torch.float64)


@torch.no_grad()
def evaluate(engine: Engine, loader: ValLoader, ranks: Ranks) -> Evaluation:
    """Average BatchNorm's statistics over ranks, then measure cross-entropy, top-1 and top-5."""
    engine.average_batchnorm()
    engine.model.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    for batch in loader:
        logits = engine.forward(batch.images)
        counted = batch.labels >= 0
        loss = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum")
        top1, top5 = correct_counts(logits, batch.labels)
        totals += torch.stack([loss.double(), top1, top5, counted.sum(dtype=torch.float64)])
    engine.model.train()
    loss_sum, top1_sum, top5_sum, samples = ranks.sum_(totals).tolist()
    assert samples == loader.num_samples, f"{samples:.0f} of {loader.num_samples} validation samples were counted"
    return Evaluation(loss_sum / samples, top1_sum / samples, top5_sum / samples, int(samples))
