"""What every optimizer says of itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from elth_dist.options import Options

if TYPE_CHECKING:
    from elth_dist.engines.protocol import TrainingOptimizer
    from elth_dist.training.options import TrainOptions


class Optimizer(Options):
    """How weights follow their gradients: one of `registry.optimizers`, as `train.optimizer`.

    Options that only one kind has are its own; learning rate and weight decay are the training's.
    """

    name: str
    label: ClassVar[str]  #: for people

    def check(self, train: TrainOptions) -> None:
        """Refuse options of the training that this optimizer cannot follow.

        Raises:
            ValueError: naming the option below `train`.
        """

    @abstractmethod
    def create(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float, train: TrainOptions
    ) -> TrainingOptimizer:
        """The optimizer of one training; of a class derived from `training.masked.Masked`.

        Args:
            groups: parameter groups as torch takes them, fp32; with their own weight_decay where it is another.
            lr: of the first step; the loop writes the schedule's into the groups before each step.
            weight_decay: of groups that say nothing else.
            train: the other options of the training.
        """
