"""The methods a user can name, and what each kind of job needs to know. No torch here: plans are made anywhere."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from elth_dist.data.options import DataOptions
from elth_dist.engines.options import EngineOptions
from elth_dist.models.options import ModelOptions
from elth_dist.options import Options, Step
from elth_dist.tickets.options import TransferOptions
from elth_dist.training.options import TrainOptions

Control = Literal["dense", "random"]

# ---------------------------------------------------------------------------------------------------- methods


class TransferBranch(TransferOptions):
    """A ticket of the run, transformed to another depth and trained there."""

    level: Annotated[int, Field(ge=0)] | None = Field(default=None, description="ticket of this level; null: the last")
    controls: tuple[Control, ...] = Field(
        default=(), description="beside it, on the target: dense, or random masks of the same layer densities"
    )

    @property
    def rules(self) -> TransferOptions:
        """The transfer alone, without what is made of it."""
        return TransferOptions(**{name: getattr(self, name) for name in TransferOptions.model_fields})


class ImpMethod(Options):
    """Iterative magnitude pruning with rewinding (Frankle et al. 2019; E-LTH section 3), and what grows out of it."""

    name: Literal["imp"] = "imp"
    levels: Annotated[int, Field(ge=0, le=100)] = Field(default=10, description="prunings; there is one training more")
    prune_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="of the remaining weights, pruned after each level"
    )
    rewind: Step = Field(default=Step.parse("1000it"), description="where theta_r is kept: '5ep', '1000it' or 0")
    data_order: Literal["per_level", "same"] = Field(
        default="per_level", description="seed of the data order: (seed, level), or the same for all levels"
    )
    transfers: tuple[TransferBranch, ...] = ()
    controls: tuple[Control, ...] = Field(
        default=(), description="beside the last ticket: dense (one uninterrupted training), random (masks permuted)"
    )

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        for number, branch in enumerate(self.transfers):
            if branch.level is not None and branch.level > self.levels:
                raise ValueError(f"transfers.{number}.level {branch.level}: the method has levels 0 to {self.levels}")
        return self


class DenseMethod(Options):
    """One uninterrupted dense training."""

    name: Literal["dense"] = "dense"


class TicketMethod(Options):
    """Train a ticket from a file, as it is, transformed to another depth, or as a control."""

    name: Literal["ticket"] = "ticket"
    path: str = Field(description="the ticket file")
    transfer: TransferOptions | None = None
    control: Literal["random", "reinit"] | None = Field(
        default=None, description="random: masks permuted within each layer; reinit: the mask on a fresh initialisation"
    )


Method = Annotated[ImpMethod | DenseMethod | TicketMethod, Field(discriminator="name")]


# ------------------------------------------------------------------------------------------------------- jobs


class Setting(Options):
    """What every training of a run has in common."""

    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    model: ModelOptions
    data: DataOptions
    train: TrainOptions = TrainOptions()
    engine: EngineOptions = EngineOptions()


class PretrainJob(Options):
    """Train dense from initialisation to the rewind step; keep theta_r."""

    kind: Literal["pretrain"] = "pretrain"
    setting: Setting
    rewind: Step


class LevelJob(Options):
    """Train the ticket of one level from theta_r to the end. Inputs: ticket."""

    kind: Literal["level"] = "level"
    setting: Setting
    level: int
    data_order: str = Field(description="what seeds the data order, beside the run's seed")


class MaskJob(Options):
    """Prune by global magnitude of the trained weights. Inputs: ticket (of the level before), trained (that level)."""

    kind: Literal["mask"] = "mask"
    level: int
    prune_fraction: float


class TransferJob(Options):
    """Elastic ticket transformation to another depth. Inputs: ticket, or `path` for a ticket file from elsewhere."""

    kind: Literal["transfer"] = "transfer"
    transfer: TransferOptions
    path: str | None = None


class TrainJob(Options):
    """Train to the end: a ticket (input `ticket`, or a file), a control made of it, or a dense net."""

    kind: Literal["train"] = "train"
    setting: Setting
    data_order: str
    control: Literal["random", "reinit", "dense"] | None = None
    path: str | None = None


JobOptions = PretrainJob | LevelJob | MaskJob | TransferJob | TrainJob
