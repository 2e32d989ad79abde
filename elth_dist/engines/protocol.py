"""The contract of an engine, which tests/engines/test_contract.py checks for every engine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from elth_dist.sparsity.masked_weights import MaskedOptimizer, MaskedWeights


class TrainingOptimizer(MaskedOptimizer, Protocol):
    """What engines and the training loop need of an optimizer; training.masked implements it."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Update weights and slots, without waiting for the device; change nothing if `found_inf` (0-d fp32) is 1."""

    def skip_next(self, calls: int = 1) -> None:
        """Make the next `calls` calls of step() change nothing; 0: take that back."""

    def restart(self) -> None:
        """Forget all state and masks, because other tensors have replaced the parameters; their state starts at 0."""

    def zero_grad(self) -> None: ...


BuildOptimizer = Callable[[nn.Module], TrainingOptimizer]


class StepOutcome(NamedTuple):
    """The outcome of one optimizer step, on the device: reading it synchronises, so the caller decides when."""

    applied: Tensor  # 0-d bool, as from finish_gradients(): False if nothing has changed, on any rank
    grad_norm: Tensor  # 0-d fp32: L2 norm of the global batch's dense gradient


class Engine(Protocol):
    """Executes the steps of one job's training on all ranks; each job has its own engine."""

    def prepare(self, model: nn.Module, build_optimizer: BuildOptimizer, batch_shape: tuple[int, ...]) -> None:
        """Place a bare fp32 model (on any device) on the devices, equal on all ranks, and build its optimizer.

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
        """Wrap these parameters of the model, by name, for masking; called once per training."""

    def micro_step(self, last: bool) -> AbstractContextManager[None]:
        """Wrap forward and backward of a micro-batch; the last one of a step reduces gradients over ranks."""

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, classes] in fp32 output, under the chosen precision; without gradients in evaluation."""

    def backward(self, loss: Tensor) -> None: ...

    def finish_gradients(self) -> Tensor:
        """Complete the step's gradients, after its last micro-batch; `masked().gradient` reads them until step().

        Returns:
            0-d bool on the device, the same on every rank: whether all gradients are finite.
        """

    def step(self) -> StepOutcome:
        """Take one optimizer step with those gradients, if all are finite, and clear them."""

    def average_batchnorm(self) -> None:
        """Replace BatchNorm's running statistics by their mean over ranks."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return the whole full-precision state_dict, equal on all ranks except BatchNorm's statistics. Collective."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of the training state, to files of its own."""

    def load(self, folder: Path) -> None:
        """Restore what save() wrote, bit for bit, with the same number of ranks."""

    def close(self) -> None:
        """Release the model."""
