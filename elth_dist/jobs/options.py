"""The methods a user can name, and what each kind of job needs to know. No torch here: plans are made anywhere."""

from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, model_validator

from elth_dist.data.options import DataOptions
from elth_dist.engines.options import EngineOptions
from elth_dist.models.options import ModelOptions
from elth_dist.options import Options, Step
from elth_dist.registry import OneOf
from elth_dist.sparsity.options import Criterion, Grasp, Magnitude, Random, Snip, Synflow
from elth_dist.sparsity.updates.options import Dpf, Dynamic, Gradual, Rigl, Set, Snfs
from elth_dist.tickets.options import TransferOptions
from elth_dist.training.options import TrainOptions

_Part = TypeVar("_Part", bound=Options)


def _only(kind: type[_Part], whole: Options) -> _Part:
    """The options of `kind` among those of a class derived from it."""
    return kind(**{name: getattr(whole, name) for name in kind.model_fields})


# --------------------------------------------------------------------------------------------------- controls


class Altered(Options):
    """What is made of a ticket by changing it, or of its network without it."""

    name: Literal["dense", "random", "reinit", "random_reinit", "shuffled_copies"] = Field(
        description="dense: one uninterrupted training; random: masks permuted within each layer; reinit: the masks "
        "on a fresh initialisation; random_reinit: both; shuffled_copies: masks permuted in a transfer's copies"
    )


class SnipCopies(Options):
    """The ticket with SNIP's masks in what the transfer copied, at each layer's density (E-LTH, figure 3)."""

    name: Literal["snip_copies"] = "snip_copies"
    batches: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        default=None, description="number of global batches that SNIP's gradient is averaged over; null: 1"
    )


def _by_name(union: Any) -> dict[str, type[Options]]:
    """The classes of a union by every name that they accept."""
    return {name: kind for kind in get_args(union) for name in get_args(kind.model_fields["name"].annotation)}


_Controls = Altered | Magnitude | Snip | Grasp | Synflow | SnipCopies | Rigl | Set | Snfs | Gradual | Dpf

#: An experiment next to a ticket, at its density. Those that prune, at theta_r of the network's own pretraining; those
#: that change masks while training, from initialisation.
Control = Annotated[_Controls, OneOf("control", lambda: _by_name(_Controls))]

#: Controls that only a transferred ticket has.
OF_COPIES = ("shuffled_copies", "snip_copies")

# ---------------------------------------------------------------------------------------------------- methods


class TransferBranch(TransferOptions):
    """A ticket of the run, transformed to another depth and trained there."""

    level: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="level whose ticket is transferred; null: the last"
    )
    controls: tuple[Control, ...] = Field(
        default=(), description="experiments on the target at the ticket's density: names, or names with options"
    )

    @property
    def rules(self) -> TransferOptions:
        """The transfer alone, without what is made of it."""
        return _only(TransferOptions, self)


class ImpMethod(Options):
    """Iterative magnitude pruning with rewinding (Frankle et al. 2019; E-LTH section 3), and what grows out of it."""

    name: Literal["imp"] = "imp"
    levels: Annotated[int, Field(ge=0, le=100)] = Field(
        default=10, description="number of prunings; there is one more training"
    )
    prune_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="fraction of the kept weights that is pruned after each level"
    )
    rewind: Step = Field(default=Step.parse("1000it"), description="rewind step, at which the weights theta_r are kept")
    data_order: Literal["per_level", "same"] = Field(
        default="per_level", description="data order: per_level: seeded by (seed, level); same: equal for all levels"
    )
    transfers: tuple[TransferBranch, ...] = Field(
        default=(), description="elastic transfers of the run's tickets to other depths, each trained there"
    )
    controls: tuple[Control, ...] = Field(
        default=(), description="experiments at the last ticket's density: names, or names with options"
    )

    @model_validator(mode="after")
    def _nothing_was_copied(self) -> Self:
        for number, control in enumerate(self.controls):
            if control.name in OF_COPIES:
                raise ValueError(f"controls.{number}: {control.name} is for the controls of a transfer, which copies")
        return self

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
    path: str = Field(description="ticket file")
    transfer: TransferOptions | None = Field(
        default=None, description="elastic transfer to another depth before the training; null: none"
    )
    control: Literal["random", "reinit", "random_reinit", "shuffled_copies", "snip_copies"] | None = Field(
        default=None,
        description="null: the ticket itself; random: masks permuted within each layer; reinit: the masks on a fresh "
        "initialisation; random_reinit: both; in a transfer's copies, shuffled_copies: masks permuted, snip_copies: "
        "SNIP's masks",
    )


class AtDensity(Options):
    """What a method of its own says, and what a control has from the ticket that it stands beside."""

    density: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="kept fraction of the prunable weights, in (0, 1]; give either density or like"
    )
    like: str | None = Field(default=None, description="ticket file whose density is reached")

    @model_validator(mode="after")
    def _one_density(self) -> Self:
        if (self.density is None) == (self.like is None):
            raise ValueError("needs either density or like (a ticket file)")
        return self


class PrunedMethod(AtDensity):
    """Prune a network at its rewinding weights, then train it (E-LTH, section 4: pruning at theta_r)."""

    rewind: Step = Field(default=Step.parse("1000it"), description="step at which the network is pruned")

    @property
    def criterion(self) -> Criterion:
        """What it is pruned by."""
        kind = next(kind for kind in get_args(Criterion) if isinstance(self, kind))
        found: Criterion = _only(kind, self)
        return found


class MagnitudeMethod(PrunedMethod, Magnitude):
    """One-shot magnitude pruning at theta_r."""


class SnipMethod(PrunedMethod, Snip):
    """SNIP at theta_r."""


class GraspMethod(PrunedMethod, Grasp):
    """GraSP at theta_r."""


class SynflowMethod(PrunedMethod, Synflow):
    """SynFlow at theta_r."""


class RandomMethod(PrunedMethod, Random):
    """Random masks at theta_r."""


class DynamicMethod(AtDensity):
    """Train one network from initialisation, with masks that change meanwhile."""

    @property
    def update(self) -> Dynamic:
        """How they change."""
        kind = next(kind for kind in get_args(Dynamic) if isinstance(self, kind))
        found: Dynamic = _only(kind, self)
        return found


class RiglMethod(DynamicMethod, Rigl):
    """RigL from initialisation."""


class SetMethod(DynamicMethod, Set):
    """SET from initialisation."""


class SnfsMethod(DynamicMethod, Snfs):
    """SNFS from initialisation."""


class GradualMethod(DynamicMethod, Gradual):
    """Gradual magnitude pruning from initialisation."""


class DpfMethod(DynamicMethod, Dpf):
    """DPF from initialisation."""


class ReinitMethod(Options):
    """A ticket's masks on a fresh initialisation, trained as the ticket is."""

    name: Literal["reinit"] = "reinit"
    like: str = Field(description="ticket file")


_Methods = (
    ImpMethod
    | DenseMethod
    | TicketMethod
    | MagnitudeMethod
    | SnipMethod
    | GraspMethod
    | SynflowMethod
    | RandomMethod
    | RiglMethod
    | SetMethod
    | SnfsMethod
    | GradualMethod
    | DpfMethod
    | ReinitMethod
)

Method = Annotated[_Methods, OneOf("method", lambda: _by_name(_Methods))]


# ------------------------------------------------------------------------------------------------------- jobs


class Setting(Options):
    """What every training of a run has in common."""

    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    data_seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
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
    data_order: str = Field(description="what seeds the data order, together with the run's seed")


class MaskJob(Options):
    """Prune by global magnitude of the trained weights. Inputs: ticket (of the level before), trained (that level)."""

    kind: Literal["mask"] = "mask"
    level: int
    prune_fraction: float


class PruneJob(Options):
    """Prune at theta_r. Inputs: ticket (theta_r); like (the ticket whose density is matched), or `path`, or `density`.

    The masks that it starts from are dense.
    """

    kind: Literal["mask"] = "mask"
    setting: Setting
    criterion: Criterion = Field(discriminator="name")
    density: float | None = None
    path: str | None = Field(default=None, description="ticket file from outside the run, in place of the input `like`")
    copies: bool = Field(
        default=False, description="prune only the layers that a transfer copied; others keep the masks of `like`"
    )


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
    control: Literal["dense", "random", "reinit", "random_reinit", "shuffled_copies"] | None = None
    path: str | None = None


class DynamicJob(Options):
    """Train from initialisation to the end while masks change.

    Inputs: like (the ticket whose density is reached), or `path`, or `density`.
    """

    kind: Literal["train"] = "train"
    setting: Setting
    data_order: str
    update: Dynamic = Field(discriminator="name")
    density: float | None = None
    path: str | None = Field(default=None, description="ticket file from outside the run, in place of the input `like`")


JobOptions = PretrainJob | LevelJob | MaskJob | PruneJob | TransferJob | TrainJob | DynamicJob
