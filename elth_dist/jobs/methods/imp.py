"""imp: iterative magnitude pruning with rewinding, with transfers and controls of its tickets."""

import itertools
from collections.abc import Container, Iterator, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from elth_dist.errors import UserError
from elth_dist.jobs.controls import AnyControl, Place, plan_control
from elth_dist.jobs.controls.base import is_of_copies, pretrain_job, train_job
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.kinds.imp import LevelJob, MaskJob
from elth_dist.jobs.kinds.transfer import TransferJob
from elth_dist.jobs.methods.base import Method, Start
from elth_dist.jobs.setting import Setting
from elth_dist.jobs.stability import TICKET, StabilityOptions, Trained
from elth_dist.options import Options, Step
from elth_dist.registry import methods
from elth_dist.sparsity.distributions import LayerNames
from elth_dist.sparsity.updates import MaskUpdate
from elth_dist.tickets.options import TransferOptions

_Level = Annotated[int, Field(ge=0)]


class TransferBranch(TransferOptions):
    """Tickets of the run, transferred to another depth and trained there."""

    level: _Level | tuple[_Level, ...] | None = Field(
        default=None, description="level, or levels, of the tickets that are transferred; null: the last"
    )
    controls: tuple[AnyControl, ...] = Field(
        default=(), description="experiments on the target at the ticket's density: names, or names with options"
    )

    @property
    def rules(self) -> TransferOptions:
        """Return the options of the transfer alone, without level and controls."""
        return TransferOptions(**{name: getattr(self, name) for name in TransferOptions.model_fields})

    def levels(self, last: int) -> tuple[int, ...]:
        """Return the levels of its tickets. `last`: of the run."""
        if self.level is None:
            return (last,)
        return self.level if isinstance(self.level, tuple) else (self.level,)


class LevelControls(Options):
    """Controls at the densities of tickets before the last."""

    levels: Annotated[tuple[_Level, ...], Field(min_length=1)] = Field(description="levels of these tickets")
    controls: tuple[AnyControl, ...] = Field(
        description="experiments at the density of each of these tickets: names, or names with options"
    )


@methods.add
class ImpMethod(Method):
    """Iterative magnitude pruning with rewinding (Frankle et al. 2019; E-LTH section 3), transfers and controls."""

    name: Literal["imp"] = "imp"
    levels: Annotated[int, Field(ge=0, le=100)] = Field(
        default=10, description="number of prunings; there is one more training"
    )
    prune_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="fraction of the kept weights that is pruned after each level"
    )
    dense_layers: LayerNames = Field(
        default=(), description="layers that are never pruned: first, last, or names of weights"
    )
    rewind: Step = Field(default=Step.parse("1000it"), description="rewind step, at which the weights theta_r are kept")
    data_order: Literal["per_level", "same"] = Field(
        default="per_level", description="data order: per_level: seeded by (seed, level); same: equal for all levels"
    )
    repel: Annotated[float, Field(ge=-100, le=100)] = Field(
        default=0.0,
        description="strength of a term in the loss of each level: the mean squared cosine to the weights that earlier "
        "levels ended with; above 0: repels, below: attracts, 0: none",
    )
    transfers: tuple[TransferBranch, ...] = Field(
        default=(), description="elastic transfers of the run's tickets to other depths, each trained there"
    )
    controls: tuple[AnyControl, ...] = Field(
        default=(), description="experiments at the last ticket's density: names, or names with options"
    )
    controls_at: tuple[LevelControls, ...] = Field(
        default=(), description="experiments at the densities of other levels' tickets"
    )
    stability: StabilityOptions | None = Field(
        default=None, description="trainings of the same tickets in several data orders, compared; null: none"
    )

    @model_validator(mode="after")
    def _nothing_was_copied(self) -> Self:
        for place, control in self._each_control():
            if is_of_copies(control) and not place.startswith("transfers."):
                raise ValueError(f"{place}: {control.name} is for the controls of a transfer, which copies")
        return self

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        named = {f"transfers.{number}.level": branch.levels(0) for number, branch in enumerate(self.transfers)}
        named |= {f"controls_at.{number}.levels": group.levels for number, group in enumerate(self.controls_at)}
        if self.stability is not None:
            named["stability.levels"] = self.stability.levels or ()
        for option, levels in named.items():
            for level in levels:
                if level > self.levels:
                    raise ValueError(f"{option} {level}: the method has levels 0 to {self.levels}")
        return self

    @model_validator(mode="after")
    def _controls_in_orders_exist(self) -> Self:
        known = {TICKET, *(control.name for _, control in self._each_control())}
        for name in () if self.stability is None else self.stability.of:
            if name not in known:
                raise ValueError(f"stability.of: {name!r} is none of {', '.join(sorted(known))}")
        return self

    def check_network(self, arch: str) -> None:
        for number, branch in enumerate(self.transfers):
            try:
                plan = branch.plan_from(arch)
            except UserError as error:
                raise UserError(f"transfers.{number}: {error}") from None
            of_copies = [control.name for control in branch.controls if is_of_copies(control)]
            if of_copies and not any(plan.copies):
                raise UserError(f"transfers.{number}.controls: {of_copies[0]}, but {plan.text} copies no unit")

    def start(self, steps_per_epoch: int) -> Start:
        return Start(f"method.rewind: {self.rewind}", self.rewind.iterations(steps_per_epoch))

    def mask_updates(self) -> Iterator[tuple[str, MaskUpdate]]:
        for place, control in self._each_control():
            if isinstance(control, MaskUpdate):
                yield f"method.{place}", control

    def _each_control(self) -> Iterator[tuple[str, AnyControl]]:
        """Yield every control with the option that names it, below `method`."""
        groups = {"controls": self.controls}
        groups |= {f"controls_at.{number}.controls": group.controls for number, group in enumerate(self.controls_at)}
        groups |= {f"transfers.{number}.controls": branch.controls for number, branch in enumerate(self.transfers)}
        for place, controls in groups.items():
            for number, control in enumerate(controls):
                yield f"{place}.{number}", control

    def plan(self, graph: Graph, setting: Setting) -> None:
        tickets = self._plan_levels(graph, setting)
        trained = [Trained(_level_name(level), TICKET, setting, level) for level in range(self.levels + 1)]
        arch = setting.model.arch
        groups = [(self.levels, self.controls)]
        groups += [(level, group.controls) for group in self.controls_at for level in group.levels]
        for level, controls in groups:
            name = f"{arch}{self._suffix(level)}"
            trained += self._plan_controls(
                graph, controls, Place(name, setting, tickets[level], self.rewind, "pretrain"), level
            )
        places: dict[tuple[str, int, str], Place] = {}  # by target, level and plan: equal plans are one job
        for branch in self.transfers:
            target, plan = setting.on(branch.to), branch.plan_from(arch).text
            theta_r = "pretrain" if target == setting else f"pretrain-{target.model.arch}"
            for level in branch.levels(self.levels):
                place = places.get((branch.to, level, plan))
                if place is None:
                    name = _unused(f"{branch.to}{self._suffix(level)}", {known.name for known in places.values()})
                    moved = graph.add(f"transfer-{name}", TransferJob(transfer=branch.rules), ticket=tickets[level])
                    training = graph.add(f"train-{name}", train_job(target), ticket=moved)
                    trained.append(Trained(training, TICKET, target, None))
                    place = places[branch.to, level, plan] = Place(name, target, moved, self.rewind, theta_r)
                trained += self._plan_controls(graph, branch.controls, place, None)
        if self.stability is not None:
            self.stability.plan(graph, trained, self.levels)

    def _plan_controls(
        self, graph: Graph, controls: Sequence[AnyControl], place: Place, level: int | None
    ) -> Iterator[Trained]:
        """Plan the controls of one ticket; yield the jobs that train a ticket of theirs."""
        for control in controls:
            training = plan_control(graph, control, place)
            if training is not None:
                yield Trained(training, control.name, place.setting, level)

    def _suffix(self, level: int) -> str:
        """Tell jobs for the ticket of a level before the last apart by name."""
        return "" if level == self.levels else f"-level-{level:02d}"

    def _plan_levels(self, graph: Graph, setting: Setting) -> list[str]:
        """Plan the levels; return the jobs that write the ticket of each level."""
        if self.repel and setting.engine.name == "deepspeed":
            raise UserError("method.repel: needs whole weights on every rank; valid with engine.name ddp")
        tickets = [graph.add("pretrain", pretrain_job(setting, self.rewind))]
        for level in range(self.levels + 1):
            previous = {}
            if level:
                options = MaskJob(level=level, prune_fraction=self.prune_fraction, dense_layers=self.dense_layers)
                trained = _level_name(level - 1)
                tickets.append(graph.add(f"mask-{level:02d}", options, ticket=tickets[-1], trained=trained))
                previous = {"previous": tickets[-2]}
            order = _level_name(level) if self.data_order == "per_level" else "level"
            past = {f"past_{number:02d}": _level_name(number) for number in range(level) if self.repel}
            training = LevelJob(setting=setting, level=level, data_order=order, repel=self.repel if past else 0.0)
            graph.add(_level_name(level), training, ticket=tickets[-1], **previous, **past)
        return tickets


def _level_name(level: int) -> str:
    return f"level-{level:02d}"


def _unused(name: str, taken: Container[str]) -> str:
    candidates = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
