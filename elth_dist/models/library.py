"""What families of networks from libraries have in common. Knows no torch."""

import difflib
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, Family, Published

if TYPE_CHECKING:
    import torch
    from torch import nn

    from elth_dist.models.options import Init


class Library(Family):
    """Networks LIBRARY/NAME, built and initialised by the library's own constructors; keys are the library's.

    Whether the library has the network shows when it is built. Nothing is excluded from pruning. No units are declared:
    tickets cannot move.
    """

    names = ()
    published = Published(224, 1000)
    initialises_itself = True
    #: What may follow the slash.
    pattern: ClassVar[str] = r"[a-z0-9_]+"
    #: Names that constructors have for the image size, by preference.
    size_arguments: ClassVar[Sequence[Callable[[int], Mapping[str, Any]]]]

    @abstractmethod
    def known(self) -> Sequence[str]:
        """All names of the library's classifiers. UserError if the library is not installed."""

    @abstractmethod
    def constructor(self, name: str) -> "Callable[..., nn.Module] | None":
        """A function of `num_classes` and a size argument; None if the library has no such network."""

    def architecture(self, name: str) -> Architecture | None:
        """Judged by the form of the name alone."""
        library, slash, network = name.partition("/")
        if (library, slash) != (self.name, "/"):
            return None
        if re.fullmatch(self.pattern, network, re.ASCII) is None:
            raise UserError(f"unknown architecture {name!r}: {network!r} is not the name of a {self.name} network")
        return Architecture(name, self)

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """UserError if the library is missing, or has no such network for that image size and number of classes."""
        name = architecture.name.removeprefix(f"{self.name}/")
        constructor = self.constructor(name)
        if constructor is None:
            known = self.known()
            near = difflib.get_close_matches(name, known, n=3) or difflib.get_close_matches(name, known, n=1, cutoff=0)
            suggested = " or ".join(f"{self.name}/{other}" for other in near)
            raise UserError(f"unknown architecture {architecture.name!r}: did you mean {suggested}?")
        try:
            for sized in self.size_arguments:
                arguments = sized(image_size)
                try:
                    return constructor(num_classes=num_classes, **arguments)
                except TypeError as error:
                    if not any(f"unexpected keyword argument '{argument}'" in str(error) for argument in arguments):
                        raise
            return constructor(num_classes=num_classes)
        except Exception as error:  # whatever the library raises
            reason = " ".join(str(error).split())
            raise UserError(
                f"{architecture.name}: {self.name} cannot build it for images of {image_size} px and {num_classes} "
                f"classes: {type(error).__name__}: {reason}"
            ) from error

    def initialise(self, model: "nn.Module", init: "Init", generator: "torch.Generator") -> None:
        """ "torchvision" keeps what the constructor drew; the others draw the modules that they know again."""
        from elth_dist.models import initialise

        if init == "paper":
            initialise.paper(model, generator, others="keep")
        elif init == "glorot":
            initialise.glorot(model, generator, others="keep")
