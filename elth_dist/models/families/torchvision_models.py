"""Every classifier of torchvision, as torchvision/NAME."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from elth_dist.models.library import Library
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import nn

#: One tensor of logits, no auxiliary classifiers.
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


class Torchvision(Library):
    """Networks of torchvision.models."""

    name = "torchvision"
    form = "torchvision/NAME"
    size_arguments = (lambda size: {"image_size": size}, lambda size: {"input_size": (size, size)})

    def known(self) -> Sequence[str]:
        """Of this torchvision."""
        from torchvision import models

        names: list[str] = models.list_models(module=models)
        return names

    def constructor(self, name: str) -> "Callable[..., nn.Module] | None":
        """Without pretrained weights."""
        from torchvision import models

        if name not in self.known():
            return None
        return partial(models.get_model, name, weights=None, **_ARGUMENTS.get(name, {}))


families.add(Torchvision())
