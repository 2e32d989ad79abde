"""What a network's name says about it: family, stages, units and the keys they own. Knows no torch."""

import difflib
import functools
import re
from dataclasses import dataclass
from typing import Literal

from elth_dist.errors import UserError

Family = Literal["resnet", "resnet_cifar", "vgg"]
Block = Literal["basic", "bottleneck", "conv"]

#: The deepest CIFAR ResNet of He et al. (2016), and our limit.
DEEPEST_CIFAR = 1202


@dataclass(frozen=True)
class Architecture:
    """A network as elastic transformation sees it (E-LTH, section 3).

    Stages and units count from 0. A unit is a residual block (ResNets) or conv + BatchNorm (VGGs); a stage is a run of
    units of equal width. Each stage's unit 0, the stem and the classifier are invariant (which leaves the first two
    stages of VGGs, of two units each, as they are).
    """

    name: str
    family: Family
    block: Block
    units: tuple[int, ...]
    """How many units each stage has, the invariant first one included."""
    excluded: tuple[str, ...] = ()
    """Conv or Linear weights that are not prunable."""

    def unit_prefixes(self, stage: int, unit: int) -> tuple[str, ...]:
        """The modules that make up a unit, as prefixes (without the dot) of their state_dict keys.

        The i-th prefix of one unit corresponds to the i-th of any other unit of the family.
        """
        assert 0 <= stage < len(self.units), f"{self.name} has no stage {stage}"
        assert 0 <= unit < self.units[stage], f"stage {stage} of {self.name} has no unit {unit}"
        if self.family != "vgg":
            return (f"layer{stage + 1}.{unit}",)
        # torchvision's `features`: conv, BN, ReLU for each unit, a max-pool after each stage
        conv = sum(3 * units + 1 for units in self.units[:stage]) + 3 * unit
        return f"features.{conv}", f"features.{conv + 1}"

    def stage_of(self, key: str) -> int | None:
        """The stage that owns a state_dict key; None for the stem and the classifier."""
        return _stages(self).get(module_of(key))

    def transfers_to(self, other: "Architecture") -> bool:
        """Whether tickets can be moved to `other`: same family, same kind of unit."""
        return (self.family, self.block) == (other.family, other.block)


def module_of(key: str) -> str:
    """The part of a state_dict key that can be a unit's prefix: its first two names."""
    return ".".join(key.split(".")[:2])


@functools.cache
def _stages(network: Architecture) -> dict[str, int]:
    return {
        prefix: stage
        for stage, units in enumerate(network.units)
        for unit in range(units)
        for prefix in network.unit_prefixes(stage, unit)
    }


_BASIC = {"resnet18": (2, 2, 2, 2), "resnet26": (2, 3, 4, 3), "resnet34": (3, 4, 6, 3)}
_BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
_VGG = {"vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_FIXED = (
    {name: Architecture(name, "resnet", "basic", units) for name, units in _BASIC.items()}
    | {name: Architecture(name, "resnet", "bottleneck", units) for name, units in _BOTTLENECK.items()}
    | {name: Architecture(name, "vgg", "conv", units, ("fc.weight",)) for name, units in _VGG.items()}
)
_CIFAR = re.compile(r"resnet(0|[1-9]\d{0,4})_cifar", re.ASCII)


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Args:
        name: resnet18, 26, 34, 50, 101, 152; resnet{6n+2}_cifar (n residual blocks a stage); vgg13, 16, 19.

    Raises:
        UserError: there is none; names the nearest valid ones.
    """
    if name in _FIXED:
        return _FIXED[name]
    cifar = _CIFAR.fullmatch(name)
    if cifar is not None:
        depth = int(cifar[1])
        blocks, rest = divmod(depth - 2, 6)
        if depth >= 8 and rest == 0 and depth <= DEEPEST_CIFAR:
            return Architecture(name, "resnet_cifar", "basic", (blocks,) * 3)
        nearest = min(max(round((depth - 2) / 6), 1), (DEEPEST_CIFAR - 2) // 6) * 6 + 2
        raise UserError(
            f"unknown architecture {name!r}: depths of CIFAR ResNets are 6n+2, at least 8 and at most {DEEPEST_CIFAR}; "
            f"nearest is 'resnet{nearest}_cifar'"
        )
    common = [*_FIXED, *(f"resnet{depth}_cifar" for depth in (8, 14, 20, 32, 44, 56, 110))]
    near = max(common, key=lambda known: (_likeness(name, known), -abs(_depth(name) - _depth(known))))
    hint = f"did you mean {near!r}? " if _likeness(name, near) > 0.5 else ""
    raise UserError(f"unknown architecture {name!r}: {hint}valid are {', '.join(_FIXED)} and resnet(6n+2)_cifar")


def _likeness(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, name, known).ratio()


def _depth(name: str) -> int:
    digits = re.search(r"\d{1,9}", name)
    return int(digits[0]) if digits else 0
