"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from elth_dist.registry import optimizers
from elth_dist.training.optimizers.base import Optimizer

if TYPE_CHECKING:
    from elth_dist.engines.protocol import TrainingOptimizer
    from elth_dist.training.options import TrainOptions


@optimizers.add
class Sgd(Optimizer):
    """SGD with L2 weight decay; `train.momentum` and `train.nesterov` are its options."""

    name: Literal["sgd"] = "sgd"
    label: ClassVar[str] = "SGD"

    def check(self, train: TrainOptions) -> None:
        if train.nesterov and train.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")

    def create(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float, train: TrainOptions
    ) -> TrainingOptimizer:
        from elth_dist.training.masked import MaskedSGD

        return MaskedSGD(groups, lr=lr, momentum=train.momentum, weight_decay=weight_decay, nesterov=train.nesterov)
