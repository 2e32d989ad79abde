"""imp: iterative magnitude pruning with rewinding, with transfers and controls of its tickets."""

import itertools
from collections.abc import Container, Iterator
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
from elth_dist.options import Step
from elth_dist.registry import methods
from elth_dist.sparsity.distributions import LayerNames
from elth_dist.sparsity.updates import MaskUpdate
from elth_dist.tickets.options import TransferOptions


class TransferBranch(TransferOptions):
    """A ticket of the run, transferred to another depth and trained there."""

    level: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="level whose ticket is transferred; null: the last"
    )
    controls: tuple[AnyControl, ...] = Field(
        default=(), description="experiments on the target at the ticket's density: names, or names with options"
    )

    @property
    def rules(self) -> TransferOptions:
        """Return the options of the transfer alone, without level and controls."""
        return TransferOptions(**{name: getattr(self, name) for name in TransferOptions.model_fields})


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
    transfers: tuple[TransferBranch, ...] = Field(
        default=(), description="elastic transfers of the run's tickets to other depths, each trained there"
    )
    controls: tuple[AnyControl, ...] = Field(
        default=(), description="experiments at the last ticket's density: names, or names with options"
    )

    @model_validator(mode="after")
    def _nothing_was_copied(self) -> Self:
        for number, control in enumerate(self.controls):
            if is_of_copies(control):
                raise ValueError(f"controls.{number}: {control.name} is for the controls of a transfer, which copies")
        return self

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        for number, branch in enumerate(self.transfers):
            if branch.level is not None and branch.level > self.levels:
                raise ValueError(f"transfers.{number}.level {branch.level}: the method has levels 0 to {self.levels}")
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
        places = {"method": self.controls}
        places |= {f"method.transfers.{number}": branch.controls for number, branch in enumerate(self.transfers)}
        for place, controls in places.items():
            for number, control in enumerate(controls):
                if isinstance(control, MaskUpdate):
                    yield f"{place}.controls.{number}", control

    def plan(self, graph: Graph, setting: Setting) -> None:
        tickets = self._plan_levels(graph, setting)
        own = Place(setting.model.arch, setting, tickets[-1], self.rewind, "pretrain")
        for control in self.controls:
            plan_control(graph, control, own)
        names: set[str] = set()
        for branch in self.transfers:
            name = _branch_name(branch, self.levels, names)
            names.add(name)
            target = setting.on(branch.to)
            source = tickets[-1 if branch.level is None else branch.level]
            moved = graph.add(f"transfer-{name}", TransferJob(transfer=branch.rules), ticket=source)
            graph.add(f"train-{name}", train_job(target), ticket=moved)
            theta_r = "pretrain" if target == setting else f"pretrain-{target.model.arch}"
            place = Place(name, target, moved, self.rewind, theta_r)
            for control in branch.controls:
                plan_control(graph, control, place)

    def _plan_levels(self, graph: Graph, setting: Setting) -> list[str]:
        """Plan the levels; return the jobs that write the ticket of each level."""
        tickets = [graph.add("pretrain", pretrain_job(setting, self.rewind))]
        for level in range(self.levels + 1):
            previous = {}
            if level:
                options = MaskJob(level=level, prune_fraction=self.prune_fraction, dense_layers=self.dense_layers)
                trained = _level_name(level - 1)
                tickets.append(graph.add(f"mask-{level:02d}", options, ticket=tickets[-1], trained=trained))
                previous = {"previous": tickets[-2]}
            order = _level_name(level) if self.data_order == "per_level" else "level"
            training = LevelJob(setting=setting, level=level, data_order=order)
            graph.add(_level_name(level), training, ticket=tickets[-1], **previous)
        return tickets


def _level_name(level: int) -> str:
    return f"level-{level:02d}"


def _branch_name(branch: TransferBranch, levels: int, taken: Container[str]) -> str:
    level = "" if branch.level in (None, levels) else f"-level-{branch.level:02d}"
    name = f"{branch.to}{level}"
    candidates = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
