"""Which source unit fills which target unit (E-LTH, section 3). Knows no torch."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from elth_dist.errors import UserError
from elth_dist.models.families import Architecture, architecture

Order = Literal["interpolate", "append"]
Squeeze = Literal["first", "strided", "last"]

#: A whole plan as users write it: the authors' text form, or for each stage the source of each target unit.
ExplicitPlan = str | Sequence[Sequence[int]]

_UNIT_IN_TEXT = re.compile(r"\s*(\d+)\s*:((?:\s*\d+\s*)(?:,\s*\d+\s*)*)", re.ASCII)


@dataclass(frozen=True)
class TransferPlan:
    """For each stage, over the target's units, the source unit that each is filled from.

    Valid by construction. Raises UserError when the two networks are of different families, a stage's list has not one
    entry for each target unit, unit 0 is not filled from unit 0 (or fills another), or a source unit does not exist.
    """

    source: str
    target: str
    stages: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        source, target = _related(self.source, self.target)
        where = f"plan {self.source} -> {self.target}"
        if len(self.stages) != len(target.units):
            raise UserError(f"{where}: {len(self.stages)} stages given, the networks have {len(target.units)}")
        for stage, sources in enumerate(self.stages):
            here = f"{where}, stage {stage + 1}"
            have, need = source.units[stage], target.units[stage]
            if len(sources) != need:
                raise UserError(f"{here}: {list(sources)} fills {len(sources)} units, the target has {need}")
            if sources[0] != 0 or 0 in sources[1:]:
                raise UserError(f"{here}: {list(sources)}: unit 0 is filled from unit 0, and no other unit is")
            wrong = next((unit for unit in sources if not 0 <= unit < have), None)
            if wrong is not None:
                raise UserError(f"{here}: no source unit {wrong}; valid are 0 to {have - 1}")

    @property
    def copies(self) -> tuple[tuple[int, ...], ...]:
        """For each stage, the target units that repeat a source unit which an earlier one is filled from already."""
        return tuple(
            tuple(unit for unit, source in enumerate(sources) if source in sources[:unit]) for sources in self.stages
        )

    @property
    def text(self) -> str:
        """The plan in the authors' text form: source:targets, `;` between units, `|` between stages."""
        return "|".join(
            ";".join(
                f"{unit}:{','.join(str(target) for target, source in enumerate(sources) if source == unit)}"
                for unit in sorted(set(sources))
            )
            for sources in self.stages
        )


def plan_transfer(
    source: str,
    target: str,
    order: Order = "interpolate",
    squeeze: Squeeze = "first",
    units: Collection[int] | None = None,
    plan: ExplicitPlan | None = None,
) -> TransferPlan:
    """Plan the move of a ticket from one network to another of its family.

    Each stage is kept, stretched or squeezed on its own; n and m are its units in source and target besides unit 0.

    Args:
        source: name of an architecture.
        target: name of an architecture of the same family and kind of unit.
        order: how a stage grows. "interpolate" copies each unit in place, the first m mod n once more; "append" repeats
            whole runs, and a remainder of r repeats the first r units right after unit r in the first run.
        squeeze: which units a shrinking stage keeps. "first" and "last" are a run; "strided" cuts the source into m
            consecutive runs, the last n mod m one longer, and keeps each run's first.
        units: copy only these (counted from 0 within their stage; 0 itself is invariant) where a stage grows (E-LTH,
            figures 4 and 5). Whole extra runs of "append" stand right after the last of them.
        plan: the whole plan instead, as lists or in the authors' text form `0:0;1:1,2;2:3,4` (source:targets, `|`
            between stages). One stage stands for all where all stages are alike (CIFAR ResNets). Replaces `order` and
            `squeeze`; not together with `units`.

    Raises:
        UserError: unknown or unrelated networks, units that a growing stage has not, or an invalid explicit plan.
    """
    sizes = list(zip(*(network.units for network in _related(source, target)), strict=True))
    if plan is not None:
        if units is not None:
            raise UserError("plan, units: an explicit plan already says what is copied; give one of the two")
        stages = parse_plan(plan) if isinstance(plan, str) else tuple(tuple(stage) for stage in plan)
        if len(stages) == 1 and len(set(sizes)) == 1:
            stages *= len(sizes)
        return TransferPlan(source, target, stages)
    if order not in get_args(Order):
        raise UserError(f"order: {order!r} is unknown; valid are {', '.join(get_args(Order))}")
    if squeeze not in get_args(Squeeze):
        raise UserError(f"squeeze: {squeeze!r} is unknown; valid are {', '.join(get_args(Squeeze))}")
    if units is not None:
        _check_units(units, sizes, f"{source} -> {target}")
    planned = []
    for stage, (have, need) in enumerate(sizes, start=1):
        if need <= have:
            planned.append((0, *_shrink(have - 1, need - 1, squeeze)))
            continue
        copied = [unit for unit in range(1, have) if units is None or unit in units]
        if not copied:
            among = "" if units is None else f" among units {sorted(set(units))}"
            raise UserError(
                f"{source} -> {target}: stage {stage} grows from {have} to {need} units and has none to copy{among} "
                "(unit 0 is invariant)"
            )
        planned.append((0, *_grow(have - 1, need - 1, copied, order)))
    return TransferPlan(source, target, tuple(planned))


def parse_plan(text: str) -> tuple[tuple[int, ...], ...]:
    """The stages that the authors' text form describes, each as the source of every target unit.

    `0:0;1:1,2;2:3,4` says: source unit 0 fills target unit 0, unit 1 fills 1 and 2, unit 2 fills 3 and 4; `|` stands
    between stages.

    Raises:
        UserError: the text has another form, or a stage fills a target unit twice or leaves one out.
    """
    stages = []
    for number, stage in enumerate(text.split("|"), start=1):
        filled: dict[int, int] = {}
        for part in stage.split(";"):
            match = _UNIT_IN_TEXT.fullmatch(part)
            if match is None:
                raise UserError(
                    f"plan, stage {number}: {part.strip()!r} is not source:targets; valid is such as '0:0;1:1,2;2:3,4'"
                )
            for target in (int(digits) for digits in match[2].split(",")):
                if target in filled:
                    raise UserError(f"plan, stage {number}: target unit {target} is filled twice in {stage.strip()!r}")
                filled[target] = int(match[1])
        missing = next((target for target in range(len(filled)) if target not in filled), None)
        if missing is not None:
            raise UserError(f"plan, stage {number}: target unit {missing} is not filled in {stage.strip()!r}")
        stages.append(tuple(filled[target] for target in range(len(filled))))
    return tuple(stages)


def _related(source: str, target: str) -> tuple[Architecture, Architecture]:
    first, second = architecture(source), architecture(target)
    if immobile := next((network for network in (first, second) if not network.units), None):
        raise UserError(
            f"{source} -> {target}: the family {immobile.family.name} declares no units, so that tickets of "
            f"{immobile.name} can be trained but not moved; networks that have units are such as resnet50"
        )
    if not first.transfers_to(second):
        raise UserError(
            f"{source} -> {target}: a ticket moves within one family only; {source} is of family {first.family.name} "
            f"with {first.block} units, {target} of {second.family.name} with {second.block} units"
        )
    return first, second


def _check_units(units: Collection[int], sizes: Sequence[tuple[int, int]], where: str) -> None:
    growing = [have for have, need in sizes if need > have]
    if not growing:
        raise UserError(f"units: {sorted(units)} choose what to copy, but no stage of {where} grows")
    wrong = next((unit for unit in units if not 1 <= unit < max(growing)), None)
    if wrong is not None:
        raise UserError(
            f"units: no growing stage of {where} has a unit {wrong} to copy; valid are 1 to {max(growing) - 1}"
        )


def _grow(n: int, m: int, copied: Sequence[int], order: Order) -> list[int]:
    """m > n target units filled from units 1..n; those of `copied` (ascending) make up the difference."""
    runs, rest = divmod(m - n + len(copied), len(copied))
    grown: list[int] = []
    for unit in range(1, n + 1):
        times = 1
        if order == "interpolate" and unit in copied:
            times = runs + (copied.index(unit) < rest)
        grown += [unit] * times
        if order == "append" and rest > 0 and unit == copied[rest - 1]:
            grown += copied[:rest]
        if order == "append" and unit == copied[-1]:
            grown += [*copied] * (runs - 1)
    return grown


def _shrink(n: int, m: int, squeeze: Squeeze) -> list[int]:
    """The m <= n of units 1..n that stay."""
    if squeeze == "first":
        return list(range(1, m + 1))
    if squeeze == "last":
        return list(range(n - m + 1, n + 1))
    if m == 0:
        return []
    length, rest = divmod(n, m)
    return [1 + run * length + max(0, run - (m - rest)) for run in range(m)]
