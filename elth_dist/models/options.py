"""The `model` section of a config."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from elth_dist.errors import UserError
from elth_dist.models.families import architecture
from elth_dist.options import Options

Init = Literal["paper", "torchvision"]


def _known(name: str) -> str:
    try:
        return architecture(name).name
    except UserError as error:
        raise ValueError(str(error)) from None


#: The name of a network that exists (a type for options).
ArchName = Annotated[str, AfterValidator(_known)]


class ModelOptions(Options):
    """Which network, and how it is initialised."""

    arch: ArchName = Field(
        description="resnet18, 26, 34, 50, 101 or 152; resnet{6n+2}_cifar, such as resnet20_cifar; vgg13, 16 or 19"
    )
    init: Init = Field(
        default="paper",
        description="paper: Kaiming normal (fan-in) for conv and fc weights, BatchNorm gamma uniform in [0, 1), as in "
        "E-LTH; torchvision: as its constructors do",
    )
