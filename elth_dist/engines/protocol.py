"""What an engine promises. tests/engines/test_contract.py holds every engine to it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from elth_dist.sparsity.masked_weights import MaskedOptimizer, MaskedWeights


class TrainingOptimizer(MaskedOptimizer, Protocol):
    """What engines and the loop need of an optimizer; those of training.masked are such."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Update; changes nothing, no slot either, and asks the device nothing, where `found_inf` (0-d fp32) is 1."""

    def skip_next(self, calls: int = 1) -> None:
        """The next so many calls of step() change nothing; 0: take it back."""

    def restart(self) -> None:
        """Forget all state and masks: other tensors have taken the parameters' places. Their state starts at 0."""

    def zero_grad(self) -> None: ...


BuildOptimizer = Callable[[nn.Module], TrainingOptimizer]


class StepOutcome(NamedTuple):
    """What became of one optimizer step, on the device: reading it is the caller's decision (it synchronises)."""

    applied: Tensor  # 0-d bool, finish_gradients()'s: where it is False nothing has changed, on any rank
    grad_norm: Tensor  # 0-d fp32: L2 norm of the global batch's dense gradient


class Engine(Protocol):
    """Executes steps of one job's training on all ranks; prepared anew for each job."""

    def prepare(self, model: nn.Module, build_optimizer: BuildOptimizer, batch_shape: tuple[int, ...]) -> None:
        """Take a bare fp32 model (anywhere) to the devices, equal on all ranks, and make its optimizer.

        Args:
            model: equal weights on every rank.
            build_optimizer: called with the placed model.
            batch_shape: [B, 3, H, W] of a rank's micro-batch.
        """

    @property
    def model(self) -> nn.Module:
        """The bare module whose parameters train, on this rank's device."""

    @property
    def optimizer(self) -> TrainingOptimizer: ...

    def masked(self, parameters: Mapping[str, nn.Parameter]) -> MaskedWeights:
        """These parameters of the model, by name, as what masks are put on; once a training."""

    def micro_step(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch; gradients are reduced over ranks at the last one of a step."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] in fp32, under the precision asked for; in evaluation without gradients."""

    def backward(self, loss: Tensor) -> None: ...

    def finish_gradients(self) -> Tensor:
        """Once a step, after its last micro-batch. From here to step(), its gradients stand: see `masked().gradient`.

        Returns:
            0-d bool on the device, the same on every rank: whether all gradients are finite.
        """

    def step(self) -> StepOutcome:
        """One optimizer step with those gradients, unless they are not finite; they are cleared."""

    def average_batchnorm(self) -> None:
        """Replace BatchNorm's running statistics by their mean over ranks."""

    def weights(self) -> Mapping[str, Tensor]:
        """The whole full-precision state_dict, equal on all ranks but for BatchNorm's statistics. Collective."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of the training state (its own files)."""

    def load(self, folder: Path) -> None:
        """Restore what save() wrote, bit for bit, with the same number of ranks."""

    def close(self) -> None:
        """Let go of the model."""
