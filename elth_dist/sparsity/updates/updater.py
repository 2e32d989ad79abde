"""The interface through which the training loop runs any mask update."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # kinds of updates are listed and checked without torch
    from torch import Tensor

    from elth_dist.sparsity.masked_weights import MaskedWeights
    from elth_dist.sparsity.masks import Masks

#: Called with the masks after each change: raises unless every rank holds the same.
Agree = Callable[["Masks"], None]


class Updater(ABC):
    """Changes masks during training; the loop calls it equally on every rank, with steps counted from the start.

    Each optimizer step consists of: forward and backward of each micro-batch in computing(), which produces the
    gradients; skip = before_step(step, finite): if True, the optimizer skips its update; the engine's step;
    after_step(step, finite).

    `finite` is whether the step's whole gradient is finite; if not, the optimizer changes nothing. It may be a 0-dim
    tensor on the device: read it only on steps where it matters, because reading synchronises.

    An updater uses no process group: gradients are those of the global batch, weights are equal on all ranks,
    randomness comes from a generator seeded by (seed, step, layer), and a callable (`agree`) compares the masks with
    other ranks after a change. An updater does not know which rank holds which part of a weight.

    The methods of this base leave the masks unchanged.
    """

    def __init__(self, masks: "Masks") -> None:
        self._masks = masks
        self._begun: MaskedWeights | None = None

    @property
    def masks(self) -> "Masks":
        """The current masks: the same object until they change, so that a counter knows when to count again."""
        return self._masks

    def dense_gradient(self, step: int) -> bool:
        """Tell whether `step` takes the gradient of all weights, not only of the kept ones. Changes nothing.

        The accounting needs only this and the masks. A step is a forward pass, a backward pass to the activations and
        one to the weights, each at the cost of the current masks (f_S): 3 f_S; or 2 f_S + f_D if the last pass is dense
        (RigL, appendix H). True for RigL at its update steps (a postponed one counts at each attempt), and always for
        SNFS and DPF; never for static masks, SET and gradual pruning. Called once per step, after `before_step` and
        before `after_step`; answered on the host, without reading from the device.
        """
        return False

    def begin(self, weights: "MaskedWeights") -> None:
        """Start: called once before the first step; on resuming, after weights and optimizer state are restored."""
        self._begun = weights
        self._masks = self._masks.to(weights.device)
        self._install()

    def computing(self) -> AbstractContextManager[None]:
        """Apply the masks to the weights that compute: wraps the micro-batches of a step, and each evaluation."""
        return nullcontext()

    def before_step(self, step: int, finite: "Tensor | bool") -> bool:
        """Act on the complete gradients of a step; return whether this update replaces the optimizer's step (RigL)."""
        return False

    def after_step(self, step: int, finite: "Tensor | bool") -> None:  # noqa: B027 - most need not do anything
        """Act after the optimizer's step, which was skipped if not `finite` or if `before_step` replaced it."""

    def check(self) -> None:
        """Check the masked weights, at each evaluation (in `computing`) and save; AssertionError names the tensor."""
        self._weights.check()

    def finish(self) -> None:
        """Finish: called once after the last step; masks the weights and checks them."""
        self.check()

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed training needs apart from weights, optimizer state and `begin`'s argument.

        Equal on every rank.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; called before `begin`, which then installs its masks."""

    @property
    def _weights(self) -> "MaskedWeights":
        assert self._begun is not None, "call begin() first"
        return self._begun

    def _install(self) -> None:
        """Apply the masks to the weights."""
        self._weights.set_masks(self._masks)


class PeriodicUpdater(Updater):
    """Change masks on scheduled steps; a step with non-finite gradients is postponed to the next step.

    Only those steps wait for the device.
    """

    def __init__(self, masks: "Masks", agree: Agree) -> None:
        super().__init__(masks)
        self._agree = agree
        self._deferred = False

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self._masks.packed(), "deferred": self._deferred}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        shapes = {name: mask.shape for name, mask in self._masks.items()}
        self._masks = type(self._masks).unpack(state["masks"], shapes)
        self._deferred = state["deferred"]

    def _comes(self, due: bool, finite: "Tensor | bool") -> bool:
        """Tell whether the masks change now, given whether this step is `due`; remember a postponed change."""
        if not (due or self._deferred):
            return False
        self._deferred = not bool(finite)
        return not self._deferred

    def _change(self, masks: "Masks") -> None:
        """Replace the masks."""
        self._masks = masks
        self._install()
        self._agree(masks)
