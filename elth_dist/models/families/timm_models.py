"""Every classifier of timm (PyTorch Image Models), as timm/NAME."""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.models.library import Library
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import nn


class Timm(Library):
    """Networks of timm, an extra: `pip install elth_dist[timm]`. A pretrained tag (resnet50.a1_in1k) loads nothing."""

    name = "timm"
    form = "timm/NAME"
    pattern = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?"
    size_arguments = (lambda size: {"img_size": size},)

    def known(self) -> Sequence[str]:
        """Of this timm."""
        names: list[str] = _timm().list_models()
        return names

    def constructor(self, name: str) -> "Callable[..., nn.Module] | None":
        """Without pretrained weights."""
        timm = _timm()
        return partial(timm.create_model, name, pretrained=False) if timm.is_model(name) else None


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError("timm/NAME networks need the package timm: pip install elth_dist[timm]") from None
    module: ModuleType = timm
    return module


families.add(Timm())
