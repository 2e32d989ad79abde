"""The options that all datasets share: images, loader, augmentation. No torch here."""

import importlib.util
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from elth_dist import registry
from elth_dist.errors import UserError
from elth_dist.options import NO_EFFECT, Options
from elth_dist.registry import OneOf

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.runtime.ranks import Ranks

Channels = tuple[float, float, float]
Loader = Literal["dali", "resident", "synthetic"]

#: Mean and deviation of ImageNet's training images in R, G, B.
IMAGENET_CHANNELS: Mapping[str, Channels] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class DataOptions(Options):
    """A dataset, its loader and its augmentation. Each dataset is a subclass with its own `name`.

    `name` chooses a preset; every other option overrides one value of it. Evaluation resizes the shorter side to
    `resize` and crops the centre.
    """

    #: Defaults of the dataset's options, over the presets of the base classes. The default of `resize` is `image_size`.
    preset: ClassVar[Mapping[str, Any]] = {}
    #: The loaders that can serve the dataset.
    loaders: ClassVar[tuple[Loader, ...]] = ("dali", "resident")

    name: str = Field(description="the dataset")
    loader: Loader = Field(
        default="dali", description="dali reads images from files; resident holds a small set on the device"
    )
    root: Path | None = Field(
        default=None,
        description="folder of the dataset; its contents count, not its place: a moved dataset is the same",
        json_schema_extra=NO_EFFECT,
    )
    image_size: Annotated[int, Field(ge=4, le=4096)] = Field(
        default=224, description="height and width of the network's input, pixels"
    )
    resize: Annotated[int, Field(ge=4, le=8192)] = Field(
        default=256, description="shorter side before the central crop of evaluation, pixels"
    )
    augment: Literal["resized_crop", "pad_crop", "none"] = Field(
        default="resized_crop",
        description="resized_crop: torchvision's RandomResizedCrop; pad_crop: random crop of the zero-padded image; "
        "none: as in evaluation",
    )
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="resized_crop: range of the crop's area, as a fraction of the image's"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="resized_crop: range of the crop's width divided by its height"
    )
    pad: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=4, description="pad_crop: black border on each side, pixels"
    )
    flip: bool = Field(default=True, description="mirror every second training image at random")
    mean: Channels = Field(
        default=(0.485, 0.456, 0.406), description="mean of R, G, B, subtracted from images in [0, 1]"
    )
    std: Channels = Field(
        default=(0.229, 0.224, 0.225), description="standard deviation of R, G, B, which images are then divided by"
    )
    num_classes: Annotated[int, Field(ge=2, le=1 << 20)] | None = Field(
        default=None, description="synthetic only: number of classes"
    )
    num_train: Annotated[int, Field(ge=1, le=1 << 32)] | None = Field(
        default=None, description="synthetic only: number of training samples"
    )
    num_val: Annotated[int, Field(ge=1, le=1 << 32)] | None = Field(
        default=None, description="synthetic only: number of validation samples"
    )
    verify: Literal["off", "decode"] = Field(
        default="off",
        description="decode: decode every image once before the run and name those that fail (dali loader; "
        "resident decodes all of them anyway)",
        json_schema_extra=NO_EFFECT,
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="CPU threads per rank for decoding; null: this host's cores divided by its ranks, at most 16",
        json_schema_extra=NO_EFFECT,
    )
    cache: Path | None = Field(
        default=None,
        description="folder that keeps the decoded images of the resident loader (up to 4 GiB), so that later jobs "
        "need not decode them; null: decoded/ in the run directory, or in a sweep's",
        json_schema_extra=NO_EFFECT,
    )
    prefetch: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="batches that dali prepares in advance", json_schema_extra=NO_EFFECT
    )
    hw_decoder_load: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.65,
        description="fraction of JPEGs for the GPU's hardware decoder, if any; pixels may differ in the last bit",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given  # pydantic reports the error
        presets = [vars(kind).get("preset", {}) for kind in reversed(cls.__mro__)]
        filled = {name: value for options in (*presets, given) for name, value in options.items()}
        if "image_size" in filled:
            filled.setdefault("resize", filled["image_size"])
        return filled

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.loader not in self.loaders:
            raise ValueError(f"loader {self.loader!r} cannot serve {self.name!r}; valid are {', '.join(self.loaders)}")
        if self.loader != "synthetic":
            for option in ("num_classes", "num_train", "num_val"):
                if getattr(self, option) is not None:
                    raise ValueError(f"{option} is for synthetic data only: {self.name!r} has its own")
        elif self.augment != "none" or self.flip:
            raise ValueError("synthetic data is not augmented: valid are augment none and flip false")
        if self.loader == "resident" and self.augment == "resized_crop":
            raise ValueError("the resident loader holds images of one size: valid are augment pad_crop and none")
        if self.resize < self.image_size:
            raise ValueError(f"resize {self.resize} is smaller than image_size {self.image_size}")
        if self.augment == "pad_crop" and self.pad > self.image_size:
            raise ValueError(f"pad {self.pad} exceeds image_size {self.image_size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {self.scale} is not a range within (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1] <= 100:
            raise ValueError(f"ratio {self.ratio} is not a range within (0, 100]")
        if not all(-10 <= value <= 10 for value in self.mean) or not all(1e-3 <= value <= 10 for value in self.std):
            raise ValueError("mean must lie within -10 .. 10 and std within 0.001 .. 10 (images are in [0, 1])")
        return self

    def known_size(self) -> tuple[int, int] | None:
        """Return (training images, classes) if they are known without reading a file, else None."""
        return None

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Return (training images, classes) without opening the dataset: counted from its files, or as published.

        Raises:
            UserError: data.root is missing, or holds no dataset.
        """

    def check(self, *, elsewhere: bool = False) -> None:
        """Check the dataset cheaply, before anything is started.

        Args:
            elsewhere: check only the options, because the run's machines may see other files.

        Raises:
            UserError: DALI is not installed, a needed data.root is missing, a folder is missing, ...
        """
        if self.loader == "dali" and not elsewhere and not _dali_installed():
            raise UserError(
                "data.loader: 'dali' needs the package nvidia-dali-cuda130 (Linux); install it, or use 'resident'"
            )

    @abstractmethod
    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """Read the dataset, or list its files. Collective; called after check(). See open_dataset().

        Args:
            ranks: this process and its collectives.
            default_root: a folder for data that the dataset writes itself; may not exist yet.
            dtype: compute dtype of the images.

        Raises:
            UserError: on every rank, if the files are invalid.
        """


#: The section `data`: options of any registered dataset, chosen by `name`.
Data = Annotated[DataOptions, OneOf("dataset", lambda: registry.datasets, alike=True)]

_DATA: TypeAdapter[DataOptions] = TypeAdapter(Data)


def data_options(*, name: str, **options: Any) -> DataOptions:
    """Make options of the registered dataset `name`; pydantic's ValidationError if they are invalid."""
    return _DATA.validate_python({"name": name, **options})


def _dali_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
