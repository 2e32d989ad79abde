"""Which images a run sees, and how they are read and augmented. No torch here."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from elth_dist.options import NO_EFFECT, Options

Channels = tuple[float, float, float]

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

#: What each `data.name` fills in where the user says nothing.
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"loader": "dali", "image_size": 224, "resize": 256, "augment": "resized_crop", **_IMAGENET},
    "folder": {"loader": "dali", "image_size": 224, "resize": 256, "augment": "resized_crop", **_IMAGENET},
    "cifar10": {
        "loader": "resident",
        "image_size": 32,
        "augment": "pad_crop",
        "pad": 4,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    },
    # No flip: a mirrored digit is another character. Mean and deviation of the training scans at 16 px.
    "digits": {
        "loader": "dali",
        "image_size": 16,
        "augment": "pad_crop",
        "pad": 2,
        "flip": False,
        "mean": (0.310, 0.310, 0.310),
        "std": (0.347, 0.347, 0.347),
    },
    "synthetic": {
        "loader": "synthetic",
        "image_size": 224,
        "augment": "none",
        "flip": False,
        "num_classes": 1000,
        "num_train": 1_281_167,
        "num_val": 50_000,
    },
}


class DataOptions(Options):
    """The dataset, its loader and its augmentation.

    `name` chooses a preset; every other option overrides one value of it. Evaluation resizes the shorter side to
    `resize` and crops the centre.
    """

    name: Literal["imagenet", "cifar10", "digits", "folder", "synthetic"] = Field(
        description="imagenet, folder: one folder per class below train/ and val/; cifar10: the same, or the python "
        "batches; digits: scikit-learn's scans, written on first use; synthetic: random images for benchmarks"
    )
    loader: Literal["dali", "resident", "synthetic"] = Field(
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
        default=(0.08, 1.0), description="resized_crop: range of the crop's area as a fraction of the image's"
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
        if not isinstance(given, dict) or given.get("name") not in PRESETS:
            return given  # pydantic's own error says what is wrong
        filled = {**PRESETS[given["name"]], **given}
        filled.setdefault("resize", filled["image_size"])
        return filled

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.name == "synthetic") != (self.loader == "synthetic"):
            raise ValueError(f"loader {self.loader!r} cannot serve {self.name!r}: synthetic goes with synthetic only")
        if self.loader != "synthetic":
            for option in ("num_classes", "num_train", "num_val"):
                if getattr(self, option) is not None:
                    raise ValueError(f"{option} is for synthetic data only: that of {self.name!r} is in its files")
        elif self.augment != "none" or self.flip:
            raise ValueError("synthetic data is not augmented: valid are augment none and flip false")
        if self.loader == "resident" and self.augment == "resized_crop":
            raise ValueError("the resident loader holds images of one size: valid are augment pad_crop and none")
        if self.resize < self.image_size:
            raise ValueError(f"resize {self.resize} is smaller than image_size {self.image_size}")
        if self.augment == "pad_crop" and self.pad > self.image_size:
            raise ValueError(f"pad {self.pad} exceeds image_size {self.image_size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {self.scale} is no range within (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1] <= 100:
            raise ValueError(f"ratio {self.ratio} is no range within (0, 100]")
        if not all(-10 <= value <= 10 for value in self.mean) or not all(1e-3 <= value <= 10 for value in self.std):
            raise ValueError("mean must lie within -10 .. 10 and std within 0.001 .. 10 (images are in [0, 1])")
        return self
