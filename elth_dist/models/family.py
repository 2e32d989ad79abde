"""What a family of networks is: the names it knows, what they are made of, how they are built. Knows no torch."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from elth_dist.registry import families

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from elth_dist.models.options import Init


class Published(NamedTuple):
    """What the networks of a family were published for: the defaults where no dataset says otherwise."""

    image_size: int  # pixels
    num_classes: int


class DepthShare(NamedTuple):
    """A cost in proportion to depth (E-LTH, section 4.5)."""

    of: str  # the network whose FLOPs are taken, at its published image size and classes
    share: float  # of its FLOPs


@dataclass(frozen=True)
class Architecture:
    """A network as elastic transformation sees it (E-LTH, section 3).

    Stages and units count from 0. A unit is a residual block (ResNets), conv + BatchNorm (VGGs) or an encoder block
    (ViTs); a stage is a run of units of equal width. Each stage's unit 0, the stem and the classifier are invariant
    (which leaves the first two stages of VGGs, of two units each, as they are).
    """

    name: str
    family: "Family"
    block: str = ""
    """The kind of unit. Tickets move between networks of one family and one kind of unit."""
    units: tuple[int, ...] = ()
    """How many units each stage has, the invariant first one included. None: tickets cannot move."""
    excluded: tuple[str, ...] = ()
    """Conv or Linear weights that are not prunable."""

    @property
    def slug(self) -> str:
        """The name as part of a file's name: without slashes."""
        return self.name.replace("/", "-")

    @property
    def published(self) -> Published:
        """Image size and classes where no dataset says otherwise."""
        return self.family.published

    @property
    def depth_share(self) -> DepthShare | None:
        """See `Family.depth_share`."""
        return self.family.depth_share(self)

    @property
    def classifier(self) -> str:
        """The name of the classifier's weight [classes, ...]. UserError if the network has none."""
        return self.family.classifier(self)

    def num_classes(self, weights: "Mapping[str, Tensor]") -> int:
        """Outputs of the classifier in a state_dict. ValueError if the classifier's weight is missing or a scalar."""
        name = self.classifier
        if name not in weights:
            raise ValueError(f"{name!r} is missing")
        if weights[name].ndim == 0:
            raise ValueError(f"{name!r} is a scalar")
        return weights[name].shape[0]

    def image_size(self, weights: "Mapping[str, Tensor]") -> int | None:
        """The image size in pixels that the shapes in a state_dict are for; None where no shape depends on it."""
        return self.family.image_size(self, weights)

    def unit_prefixes(self, stage: int, unit: int) -> tuple[str, ...]:
        """The modules that make up a unit, as prefixes (without the dot) of their state_dict keys.

        The i-th prefix of one unit corresponds to the i-th of any other unit of the family.
        """
        assert 0 <= stage < len(self.units), f"{self.name} has no stage {stage}"
        assert 0 <= unit < self.units[stage], f"stage {stage} of {self.name} has no unit {unit}"
        return self.family.unit_prefixes(self, stage, unit)

    def prefix_of(self, key: str) -> str | None:
        """The unit prefix that a state_dict key belongs to; None outside of the units."""
        stages = _stages(self)
        parts = key.split(".")
        prefixes = (".".join(parts[:length]) for length in range(1, len(parts)))
        return next((prefix for prefix in prefixes if prefix in stages), None)

    def stage_of(self, key: str) -> int | None:
        """The stage that owns a state_dict key; None for the stem and the classifier."""
        prefix = self.prefix_of(key)
        return None if prefix is None else _stages(self)[prefix]

    def transfers_to(self, other: "Architecture") -> bool:
        """Whether tickets can be moved to `other`: same family, same kind of unit."""
        return bool(self.units) and (self.family, self.block) == (other.family, other.block)


@functools.cache
def _stages(network: Architecture) -> dict[str, int]:
    return {
        prefix: stage
        for stage, units in enumerate(network.units)
        for unit in range(units)
        for prefix in network.unit_prefixes(stage, unit)
    }


class Family(ABC):
    """A family of networks: one object, registered with `registry.families.add`.

    A family that declares no units can be trained and pruned; its tickets cannot move to other networks.
    """

    name: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    """Names of networks to suggest: all of them, unless `form` is set."""
    form: ClassVar[str] = ""
    """How names are formed, for messages, where there are more than `names`."""
    published: ClassVar[Published]
    initialises_itself: ClassVar[bool] = False
    """Whether `build` initialises the network from torch's global random state.

    It is then always called for the CPU with that state seeded, and `initialise` completes it. Otherwise `initialise`
    fills the network, and only what is in the state_dict may need values.
    """

    @abstractmethod
    def architecture(self, name: str) -> Architecture | None:
        """The network of that name, None if it is another family's. UserError for a near miss."""

    @abstractmethod
    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """A network on torch's default device: images [B, 3, image_size, image_size] to logits [B, num_classes].

        UserError if there is none for that image size.
        """

    def initialise(self, model: "nn.Module", init: "Init", generator: "torch.Generator") -> None:
        """Fill a network in place with random numbers of `generator` alone; see `build_model`.

        Knows Conv2d, Linear, BatchNorm2d, LayerNorm, MultiheadAttention, class tokens and position embeddings.
        """
        from elth_dist.models import initialise

        initialise.INITIALISATIONS[init](model, generator)

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        """See `Architecture.unit_prefixes`; called with units that exist."""
        raise AssertionError(f"the family {self.name} declares no units")

    def classifier(self, architecture: Architecture) -> str:
        """See `Architecture.classifier`. Looks for the weight whose shape depends on the number of classes."""
        from elth_dist.models.shapes import classifier

        return classifier(architecture)

    def image_size(self, architecture: Architecture, weights: "Mapping[str, Tensor]") -> int | None:
        """See `Architecture.image_size`. Looks for shapes that depend on the image size."""
        from elth_dist.models.shapes import image_size

        return image_size(architecture, weights)

    def depth_share(self, architecture: Architecture) -> DepthShare | None:
        """How E-LTH counts the network's FLOPs by its depth; None: it does not. UserError where that is undefined."""
        return None

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> "tuple[object, ...]":
        # a copy of a network, and one read from a pickle, is of the same family
        return _registered, (self.name,)


def _registered(name: str) -> Family:
    import elth_dist.models.families  # noqa: F401  # registers the built-in ones

    family = families[name]
    assert isinstance(family, Family)
    return family
