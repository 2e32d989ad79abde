"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import optimizers
from elth_dist.training.optimizers.base import Optimizer

if TYPE_CHECKING:
    from elth_dist.engines.protocol import TrainingOptimizer
    from elth_dist.training.options import TrainOptions

Beta = Annotated[float, Field(ge=0, lt=1)]


@optimizers.add
class AdamW(Optimizer):
    """AdamW. A step decays weights by lr x weight_decay, apart from the gradient."""

    name: Literal["adamw"] = "adamw"
    label: ClassVar[str] = "AdamW"
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.999), description="decay per step of the running means of the gradient and of its square"
    )
    eps: Annotated[float, Field(ge=1e-20, le=1)] = Field(
        default=1e-8,
        description="added to the root of the mean square; never 0, because pruned weights would become 0 / 0",
    )

    def check(self, train: TrainOptions) -> None:
        for option in ("momentum", "nesterov"):
            value = getattr(train, option)
            if value != type(train).model_fields[option].default:
                raise ValueError(
                    f"{option} {value}: adamw has none; leave it out, and set train.optimizer.betas instead"
                )

    def create(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float, train: TrainOptions
    ) -> TrainingOptimizer:
        from elth_dist.training.masked import MaskedAdamW

        return MaskedAdamW(groups, lr=lr, betas=self.betas, eps=self.eps, weight_decay=weight_decay)
