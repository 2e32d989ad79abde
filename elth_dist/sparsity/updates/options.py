"""How a config names the ways in which masks change while a network trains. Knows no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from elth_dist.errors import UserError
from elth_dist.options import Options, Step
from elth_dist.sparsity.distributions import Distribution

_Interval = Annotated[int, Field(ge=1, le=1 << 30)]

#: A point of a training: a fraction of its optimizer steps, or a step.
Point = Annotated[float, Field(ge=0, le=1)] | Step


def steps_at(point: float | Step, total_steps: int, steps_per_epoch: int) -> int:
    """A point in optimizer steps: a fraction of `total_steps`, rounded to the nearest, or the step itself."""
    return point.iterations(steps_per_epoch) if isinstance(point, Step) else round(point * total_steps)


class _Dynamic(Options):
    multiplier: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1,
        description="factor of the training's length: multiplies epochs, milestones, warm-up and the update's own "
        "points, not intervals (RigL-5x: 5)",
    )

    def stretched(self) -> Self:
        """The same for a training that is `multiplier` times as long: its own points, where they are steps."""
        points = {
            name: value.times(self.multiplier)
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Step)
        }
        return self.model_copy(update={**points, "multiplier": 1})

    def check(self, total_steps: int, steps_per_epoch: int) -> None:
        """UserError unless a training of so many steps (times `multiplier`) reaches the points that it must."""


class _DropAndGrow(_Dynamic):
    distribution: Distribution = Field(
        default="uniform",
        description="densities of the layers: uniform (the first layer stays dense) or erk (Erdos-Renyi-Kernel)",
    )
    delta_t: _Interval = Field(default=100, description="optimizer steps from one update to the next")
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3,
        description="fraction of a layer's kept weights that the first update replaces; falls to 0 with a cosine",
    )
    t_end: Point = Field(
        default=0.78125, description="last update: a fraction of the training (RigL: 25k of 32k steps) or a step"
    )


class Rigl(_DropAndGrow):
    """RigL: drop by magnitude, grow by the dense gradient, in the optimizer step's place (Evci et al. 2020)."""

    name: Literal["rigl"] = "rigl"


class Set(_DropAndGrow):
    """SET: drop by magnitude, grow at random, after the optimizer's step (Mocanu et al. 2018, as in RigL's code)."""

    name: Literal["set"] = "set"


class Snfs(_DropAndGrow):
    """SNFS: drop by magnitude, grow by the running mean of dense gradients (Dettmers & Zettlemoyer 2019, ditto)."""

    name: Literal["snfs"] = "snfs"
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="momentum of the running mean of the dense gradient"
    )


class _Ramp(_Dynamic):
    begin: Point = Field(default=0.0, description="end of the dense phase: a fraction of the training or a step")
    end: Point = Field(
        default=0.75, description="step that reaches the final density: a fraction of the training or a step"
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if type(self.begin) is type(self.end) is float and self.begin >= self.end:
            raise ValueError(f"begin {self.begin} is not before end {self.end}")
        return self

    def ramp(self, total_steps: int, steps_per_epoch: int) -> tuple[int, int]:
        """`begin` and `end` in optimizer steps. UserError unless the training reaches them."""
        begin, end = (steps_at(point, total_steps, steps_per_epoch) for point in (self.begin, self.end))
        if not begin < end <= total_steps:
            raise UserError(
                f"the ramp goes from begin {self.begin} (step {begin}) to end {self.end} (step {end}), which must be a "
                f"later step, {total_steps} at most, the training's last"
            )
        return begin, end

    def check(self, total_steps: int, steps_per_epoch: int) -> None:
        self.stretched().ramp(total_steps * self.multiplier, steps_per_epoch)


class Gradual(_Ramp):
    """Gradual magnitude pruning with a cubic schedule (Zhu & Gupta 2018), at the points of RigL's baseline."""

    name: Literal["gradual"] = "gradual"
    distribution: Distribution | Literal["global"] = Field(
        default="uniform",
        description="uniform, erk: each layer is pruned to its own density; global: all layers compete",
    )
    every: _Interval = Field(default=1000, description="optimizer steps from one pruning to the next")
    begin: Point = Field(
        default=0.3125, description="end of the dense phase: a fraction of the training (10k of 32k steps) or a step"
    )
    end: Point = Field(
        default=0.78125, description="last pruning: a fraction of the training (25k of 32k steps) or a step"
    )


class Dpf(_Ramp):
    """DPF: dense weights train on the gradient at the pruned ones; masks follow their magnitude (Lin et al. 2020)."""

    name: Literal["dpf"] = "dpf"
    distribution: Distribution | Literal["global"] = Field(
        default="global",
        description="global: all layers compete; uniform, erk: each layer is pruned to its own density",
    )
    every: _Interval = Field(default=16, description="optimizer steps from one mask to the next")


#: Any of them; `name` tells them apart.
Dynamic = Rigl | Set | Snfs | Gradual | Dpf
