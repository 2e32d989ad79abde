"""BatchNorm over many ranks: per-rank statistics, averaged before evaluation, or synchronised at every step."""

from torch import nn

from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks


def average_batchnorm(model: nn.Module, ranks: Ranks) -> None:
    """Replace running statistics by their mean over ranks."""
    statistics = [
        tensor
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    ]
    ranks.average_(statistics)


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
