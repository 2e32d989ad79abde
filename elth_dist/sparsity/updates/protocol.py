"""What the training loop calls while masks may change, so that it need not know in which way they do."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks


class MaskedOptimizer(Protocol):
    """What an update needs of the optimizer; training.masked_sgd.MaskedSGD is one."""

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Each trained tensor's slots: "momentum_buffer", of the tensor's shape, where there is momentum.

        The tensors are the parameters; under ZeRO 1 to 3, the flat partitions of them that this rank trains.
        """

    def set_masks(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Keep the weights where these masks are False, and their momentum, at exactly zero from now on."""

    def not_zero(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Masked parameters with a pruned weight that is not exactly zero, and those with such a momentum.

        As far as this rank holds them.
        """


class MaskUpdate(Protocol):
    """What the loop calls, on every rank alike. Steps are optimizer steps, counted from the start of the training.

    for each optimizer step: before_forward(step); forward and backward of each micro-batch, after which the gradients
    stand; skip = before_step(step, finite), and the optimizer is told to skip its update if so; the engine's step;
    after_step(step, finite).

    `finite` says whether the step's whole gradient is: where it is not, the optimizer changes nothing. It may be a
    0-dim tensor on the device: whoever reads it only on the steps that matter does not stall the rest.

    There is no process group in here: gradients are those of the global batch already, weights are equal on all ranks,
    randomness comes from a generator seeded by (seed, step, layer), and what has to be said to other ranks after a
    change is a callable that the update is made with.
    """

    @property
    def masks(self) -> Masks:
        """The masks in force: the same object until they change, so that who counts them sees when to do it anew."""

    def dense_gradient(self, step: int) -> bool:
        """Whether `step` takes the gradient of all weights, not of the kept ones alone. It changes nothing.

        This is all that the accounting needs to know beside the masks. A step is a forward pass, a backward pass to the
        activations and one to the weights, each of which costs what the masks in force during it cost (f_S): 3 f_S; or
        2 f_S + f_D, if the last one is dense (RigL, appendix H). So: RigL at its update steps (a deferred one counts at
        each attempt), SNFS and DPF always; static masks, SET and gradual pruning never. Asked once a step, after
        `before_step` and before `after_step`; answered on the host, without reading from the device.
        """

    def begin(self, weights: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        """Once, before the first step; when resuming, after the weights and the optimizer's state are restored.

        `weights` are the masked ones, fp32, live: what is written to them is trained.
        """

    def before_forward(self, step: int) -> None:
        """Make the weights those to compute with: before a step's first micro-batch, and before each evaluation.

        So perhaps twice for a step.
        """

    def before_step(self, step: int, finite: Tensor | bool) -> bool:
        """The weights' `grad` is the mean gradient over the global batch: unscaled and dense, nothing masked yet.

        Returns whether this update takes the optimizer step's place (RigL), on every rank alike.
        """

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        """The step is done: the optimizer has updated the weights if `finite`, unless `before_step` took its place."""

    def check(self) -> None:
        """At each evaluation and save: AssertionError naming a tensor that breaks what the update promises."""

    def finish(self) -> None:
        """Once, after the last step: leave the weights masked, and check."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs beyond the weights, the optimizer's state and what `begin` is given.

        Equal on every rank.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there; called before `begin`, which then installs the masks that were in force."""


def check_pruned(weights: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
    """AssertionError, naming the tensors, unless every pruned weight and its momentum are exactly zero."""
    names = {weight: name for name, weight in weights.items()}
    wrong, momentum = ([names[weight] for weight in found] for found in optimizer.not_zero())
    assert not wrong, f"pruned weights are not zero in {', '.join(wrong)}"
    assert not momentum, f"the momentum of pruned weights is not zero in {', '.join(momentum)}"
