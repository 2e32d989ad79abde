"""BatchNorm over many ranks: statistics averaged before evaluation, re-estimated, or synchronised at every step."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks


def has_batchnorm(model: nn.Module) -> bool:
    """Tell whether a network has BatchNorm with running statistics."""
    return bool(_with_statistics(model))


def average_batchnorm(model: nn.Module, ranks: Ranks) -> None:
    """Replace running statistics by their mean over ranks."""
    ranks.average_([tensor for module in _with_statistics(model) for tensor in _statistics(module)])


@contextlib.contextmanager
def reestimated_batchnorm(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Iterable[Tensor], ranks: Ranks
) -> Iterator[None]:
    """A context in which BatchNorm's statistics are those of `images`; the running ones come back at its end.

    Each statistic is the mean over the batches and over ranks. Everything else computes in evaluation mode.
    Collective.

    Args:
        model: all of its modules are left in evaluation mode.
        forward: images to logits, through `model`.
        images: batches [B, 3, H, W] of this rank, at least one, as many on every rank.
        ranks: of the training.
    """
    modules = _with_statistics(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    momenta = [module.momentum for module in modules]
    model.eval()
    try:
        for module in modules:
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
            module.train()
        with torch.no_grad():
            for batch in images:
                forward(batch)
        model.eval()
        average_batchnorm(model, ranks)
        yield
    finally:
        model.eval()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum


def _with_statistics(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def _statistics(module: nn.modules.batchnorm._BatchNorm) -> list[Tensor]:
    assert module.running_mean is not None
    assert module.running_var is not None
    return [module.running_mean, module.running_var]


def synchronised(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Return the model with statistics over all ranks' samples at every step; with one rank, the model itself.

    Raises:
        UserError: on CPUs, where torch has no SyncBatchNorm.
    """
    if ranks.alone:
        return model
    if ranks.device.type != "cuda":
        raise UserError("train.sync_bn: needs GPUs (torch's SyncBatchNorm does not run on CPUs); valid here: false")
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
