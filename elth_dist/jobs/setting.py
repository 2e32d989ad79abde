"""The options that all trainings of a run share. No torch here."""

from typing import Annotated

from pydantic import Field

from elth_dist.data import Data
from elth_dist.engines.options import EngineOptions
from elth_dist.models.options import ModelOptions
from elth_dist.options import Options
from elth_dist.training.options import TrainOptions

Seed = Annotated[int, Field(ge=0, lt=1 << 32)]


class Setting(Options):
    """The options of a training under any method."""

    seed: Seed = 0
    data_seed: Seed | None = None
    model: ModelOptions
    data: Data
    train: TrainOptions = TrainOptions()
    engine: EngineOptions = EngineOptions()

    def on(self, arch: str) -> "Setting":
        """Return the setting with another network."""
        return self.model_copy(update={"model": self.model.model_copy(update={"arch": arch})})
