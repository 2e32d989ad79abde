"""Accuracy on a validation set, each sample counted once over all ranks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elth_dist.data.protocol import Dataset, ValLoader
from elth_dist.engines.batchnorm import reestimated_batchnorm
from elth_dist.engines.protocol import Engine
from elth_dist.runtime.ranks import Ranks

#: Samples that evaluate() holds at once, where it makes the loader.
_BATCH = 250


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
def outcome_sums(
    forward: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Tensor:
    """Cross-entropy, top-1 hits, top-5 hits and samples, each summed over all batches; labels of -1 are not counted.

    Args:
        forward: images to fp32 logits [B, classes].
        batches: images and labels (int64 [B]) on `device`.
        device: where the sums are formed.

    Returns:
        float64 [4].
    """
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    for images, labels in batches:
        logits = forward(images)
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        top1, top5 = correct_counts(logits, labels)
        totals += torch.stack([loss.double(), top1, top5, (labels >= 0).sum(dtype=torch.float64)])
    return totals


def means(totals: Tensor) -> Evaluation:
    """What the sums of `outcome_sums` over at least one sample say about the network."""
    loss, top1, top5, samples = totals.tolist()
    return Evaluation(loss / samples, top1 / samples, top5 / samples, int(samples))


def validate(engine: Engine, loader: ValLoader, ranks: Ranks) -> Evaluation:
    """Average BatchNorm's statistics over ranks, then measure cross-entropy, top-1 and top-5. Collective."""
    engine.average_batchnorm()
    return _validate(engine, loader, ranks)


def validate_reestimated(engine: Engine, loader: ValLoader, images: Iterable[Tensor], ranks: Ranks) -> Evaluation:
    """Measure as validate(), with BatchNorm's statistics re-estimated; the network stays as it is. Collective.

    Running statistics lag behind weights whose masks changed late.

    Args:
        engine: holds the network.
        loader: of the validation set.
        images: training batches [B, 3, H, W] of this rank, from which the statistics are estimated.
        ranks: of the training.
    """
    with reestimated_batchnorm(engine.model, engine.forward, images, ranks):
        return _validate(engine, loader, ranks)


def _validate(engine: Engine, loader: ValLoader, ranks: Ranks) -> Evaluation:
    engine.model.eval()
    own = outcome_sums(engine.forward, ((batch.images, batch.labels) for batch in loader), ranks.device)
    engine.model.train()
    measured = means(ranks.sum_(own))
    assert measured.samples == loader.num_samples, (
        f"{measured.samples} of {loader.num_samples} validation samples were counted"
    )
    return measured


def evaluate(
    model: nn.Module, data: Iterable[Any] | Dataset, *, device: torch.device | str | None = None
) -> Evaluation:
    """Measure a network on validation data: mean cross-entropy, top-1 and top-5.

    The network computes in evaluation mode (BatchNorm uses its running statistics); each module's own mode is restored
    afterwards. Run it under torch.autocast for another precision than the weights'.

    Args:
        model: images to logits [B, classes].
        data: batches of (images, labels, ...), such as a DataLoader's; labels are int64 [B], and -1 is not counted. Or
            an open dataset, of which the whole validation set is read.
        device: where to compute; the model moves there. None: where its parameters are.

    Raises:
        ValueError: a batch has another form, no sample has a label, or this process holds only a part of the dataset.
    """
    if device is None:
        first = next(iter([*model.parameters(), *model.buffers()]), None)
        place = torch.device("cpu") if first is None else first.device
    else:
        place = torch.device(device)
        model.to(place)
    if not hasattr(data, "val_loader"):
        return _evaluate(model, data, place)
    loader = data.val_loader(batch=_BATCH)
    try:
        measured = _evaluate(model, loader, place)
    finally:
        loader.close()
    if measured.samples != loader.num_samples:
        raise ValueError(f"this process holds {measured.samples} of the dataset's {loader.num_samples} samples only")
    return measured


def _evaluate(model: nn.Module, batches: Iterable[Any], device: torch.device) -> Evaluation:
    def forward(images: Tensor) -> Tensor:
        logits = model(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(f"the model's output is {_form(logits)}, not logits [B, classes]")
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    with evaluating(model):
        totals = outcome_sums(forward, _pairs(batches, device), device)
    if totals[3] == 0:
        raise ValueError("the data has no sample with a label")
    return means(totals)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in which a network is in evaluation mode; each module's own mode is restored at its end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _pairs(batches: Iterable[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise ValueError(f"a batch is {_form(batch)}, not (images, labels, ...)")
        images, labels = batch[:2]
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
            raise ValueError(f"the labels of a batch are {_form(labels)}, not int64 [B]")
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _form(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
