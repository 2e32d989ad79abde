"""The families of networks, one file each, and the lookup of a network by its name. Knows no torch."""

import difflib
import re

from elth_dist import registry
from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, Family

__all__ = ["Architecture", "Family", "architecture", "name_forms"]

registry.load_folder(__name__, __path__)


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Args:
        name: resnet18, 26, 34, 50, 101, 152; resnet{6n+2}_cifar (n residual blocks a stage); vgg13, 16, 19;
            vgg13_fc2, fc3, fc5; conv2, 4, 6; lenet_300_100, lenet5_caffe; mlp_{width}x{hidden layers};
            vit_xs4, 6, 8; vit_ti8, 12, 16; vit_s8, 12, 16; torchvision/NAME, timm/NAME (whether the library has it
            shows when it is built); or a name of a plugin's family.

    Raises:
        UserError: there is none; names the nearest valid ones.
    """
    for family in registry.families.values():
        described: Architecture | None = family.architecture(name)
        if described is not None:
            return described
    common = [known for family in registry.families.values() for known in family.names]
    near = max(common, key=lambda known: (_likeness(name, known), -abs(_depth(name) - _depth(known))))
    hint = f"did you mean {near!r}? " if _likeness(name, near) > 0.5 else ""
    valid = name_forms()
    raise UserError(f"unknown architecture {name!r}: {hint}valid are {', '.join(valid[:-1])} and {valid[-1]}")


def name_forms() -> list[str]:
    """All names of networks, and the forms of those that are too many to list."""
    families = registry.families.values()
    listed = [name for family in families if not family.form for name in family.names]
    return [*listed, *(family.form for family in families if family.form)]


def _likeness(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, name, known).ratio()


def _depth(name: str) -> int:
    digits = re.search(r"\d{1,9}", name)
    return int(digits[0]) if digits else 0
