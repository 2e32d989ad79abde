"""Random images of any number, size and number of classes."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from elth_dist import registry
from elth_dist.data.options import DataOptions

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.runtime.ranks import Ranks


@registry.datasets.add
class Synthetic(DataOptions):
    """Random images that take almost no time to load, for benchmarks. The default numbers are ImageNet's."""

    preset: ClassVar = {
        "loader": "synthetic",
        "image_size": 224,
        "augment": "none",
        "flip": False,
        "num_classes": 1000,
        "num_train": 1_281_167,
        "num_val": 50_000,
    }
    loaders = ("synthetic",)

    name: Literal["synthetic"] = "synthetic"

    @model_validator(mode="after")
    def _counted(self) -> Self:
        for option in ("num_classes", "num_train", "num_val"):
            if getattr(self, option) is None:
                raise ValueError(f"{option} is null, but {self.name!r} data needs a number")
        return self

    def known_size(self) -> tuple[int, int]:
        """Return the numbers in the options."""
        assert self.num_train is not None
        assert self.num_classes is not None
        return self.num_train, self.num_classes

    def size(self) -> tuple[int, int]:
        """Return the numbers in the options."""
        return self.known_size()

    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """Make the bank of images."""
        from elth_dist.data.synthetic import SyntheticData

        return SyntheticData(self, ranks, dtype)
