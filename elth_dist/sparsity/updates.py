"""How masks change while a network trains: one protocol, so that the training loop need not know which way it is."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks


class MaskedOptimizer(Protocol):
    """What an update needs of the optimizer; training.masked_sgd.MaskedSGD is one."""

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Each parameter's slots: "momentum_buffer", of the parameter's shape, where there is momentum."""

    def set_masks(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Keep the weights where these masks are False, and their momentum, at exactly zero from now on."""


class MaskUpdate(Protocol):
    """What the loop calls, on every rank alike. Steps are optimizer steps, counted from the start of the training.

    for each optimizer step: before_forward(step); forward and backward of each micro-batch; skip = before_step(step),
    and the optimizer is told to skip its update if so; the engine's step; after_step(step, applied).

    An update whose choices need other ranks' values gets the reductions as callables when it is made; there is no
    process group in here. Randomness comes from a generator seeded by (seed, step, layer).
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

    def before_step(self, step: int) -> bool:
        """The gradients of the step stand: the mean over the global batch, maybe times the loss scale, not yet masked.

        Returns whether this update takes the optimizer step's place (RigL), on every rank alike.
        """

    def after_step(self, step: int, applied: Tensor | bool) -> None:
        """The step is done. `applied` is False when it was skipped, for `before_step` or for non-finite gradients.

        It may be a 0-dim tensor on the device: whoever reads it only on the steps that matter does not stall the rest.
        """

    def check(self) -> None:
        """At each evaluation and save: AssertionError naming a tensor that breaks what the update promises."""

    def finish(self) -> None:
        """Once, after the last step: leave the weights masked, and check."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs beyond the weights, the optimizer's state and what `begin` is given."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there; called before `begin`, which then installs the masks that were in force."""


class StaticMask:
    """Masks that stay as they are: every ticket's training, and with dense masks any dense one."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._weights: Mapping[str, nn.Parameter] = {}
        self._optimizer: MaskedOptimizer | None = None

    @property
    def masks(self) -> Masks:
        return self._masks

    def begin(self, weights: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        self._weights, self._optimizer = weights, optimizer
        optimizer.set_masks({weights[name]: mask for name, mask in self._masks.items()})

    def before_forward(self, step: int) -> None:
        """Nothing to do."""

    def before_step(self, step: int) -> bool:
        return False

    def dense_gradient(self, step: int) -> bool:
        return False

    def after_step(self, step: int, applied: Tensor | bool) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """AssertionError, naming the tensors, unless every pruned weight and its momentum are exactly zero."""
        assert self._optimizer is not None, "check() before begin()"
        wrong = self._masks.check_zero(self._weights)
        assert not wrong, f"pruned weights are not zero in {', '.join(wrong)}"
        slots = {name: self._optimizer.state[self._weights[name]] for name in self._masks}
        momentum = {name: slot["momentum_buffer"] for name, slot in slots.items() if "momentum_buffer" in slot}
        if momentum:
            wrong = self._masks.check_zero(momentum)
            assert not wrong, f"the momentum of pruned weights is not zero in {', '.join(wrong)}"

    def finish(self) -> None:
        self.check()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"static masks have no state, but a checkpoint holds {sorted(state)}"
