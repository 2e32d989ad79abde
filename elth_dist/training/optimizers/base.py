"""The base of optimizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from elth_dist.options import Options

if TYPE_CHECKING:
    from elth_dist.engines.protocol import TrainingOptimizer
    from elth_dist.training.options import TrainOptions


class Optimizer(Options):
    """Options of `train.optimizer`; one kind per class in `registry.optimizers`.

    A kind holds only its own options; learning rate and weight decay belong to `train`.
    """

    name: str
    label: ClassVar[str]  #: for people

    def check(self, train: TrainOptions) -> None:
        """Refuse options of the training that this optimizer does not support.

        Raises:
            ValueError: names the option below `train`.
        """

    @abstractmethod
    def create(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float, train: TrainOptions
    ) -> TrainingOptimizer:
        """Create the optimizer of one training, of a class derived from `training.masked.Masked`.

        Args:
            groups: torch's parameter groups, fp32; a group may set its own weight_decay.
            lr: of the first step; the loop sets the schedule's learning rate in the groups before each step.
            weight_decay: of groups that do not set their own.
            train: the other options of the training.
        """
