"""What the training loop calls while masks may change: it does not know which mask update it runs."""

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
    """What the loop calls, on every rank alike. Steps are optimizer steps, counted from the start of the training.

    For each optimizer step: forward and backward of each micro-batch in computing(), which leaves the gradients;
    skip = before_step(step, finite), upon which the optimizer skips its update if told so; the engine's step;
    after_step(step, finite).

    `finite` says whether the step's whole gradient is: where it is not, the optimizer changes nothing. It may be a
    0-dim tensor on the device: whoever reads it only on the steps that matter does not stall the rest.

    There is no process group in here: gradients are those of the global batch already, weights are equal on all ranks,
    randomness comes from a generator seeded by (seed, step, layer), and what has to be said to other ranks after a
    change is a callable that the update is made with. Nor does an update know which rank holds which part of a weight.

    What is not overridden leaves the masks as they are.
    """

    def __init__(self, masks: "Masks") -> None:
        self._masks = masks
        self._begun: MaskedWeights | None = None

    @property
    def masks(self) -> "Masks":
        """The masks in force: the same object until they change, so that a counter sees when to count again."""
        return self._masks

    def dense_gradient(self, step: int) -> bool:
        """Whether `step` takes the gradient of all weights, not of the kept ones alone. It changes nothing.

        This and the masks are all that the accounting needs to know. A step is a forward pass, a backward pass to the
        activations and one to the weights, each of which costs what the masks in force during it cost (f_S): 3 f_S; or
        2 f_S + f_D, if the last one is dense (RigL, appendix H). So: RigL at its update steps (a deferred one counts at
        each attempt), SNFS and DPF always; static masks, SET and gradual pruning never. Asked once a step, after
        `before_step` and before `after_step`; answered on the host, without reading from the device.
        """
        return False

    def begin(self, weights: "MaskedWeights") -> None:
        """Once, before the first step; when resuming, after the weights and the optimizer's state are restored."""
        self._begun = weights
        self._masks = self._masks.to(weights.device)
        self._install()

    def computing(self) -> AbstractContextManager[None]:
        """Around the micro-batches of a step, and around each evaluation: the weights are those to compute with."""
        return nullcontext()

    def before_step(self, step: int, finite: "Tensor | bool") -> bool:
        """The gradients of the weights stand. Returns whether this update takes the optimizer step's place (RigL)."""
        return False

    def after_step(self, step: int, finite: "Tensor | bool") -> None:  # noqa: B027 - most need not do anything
        """The step is done: the optimizer has updated the weights if `finite`, unless `before_step` took its place."""

    def check(self) -> None:
        """At each evaluation (in `computing`) and save: AssertionError naming a tensor that breaks what is promised."""
        self._weights.check()

    def finish(self) -> None:
        """Once, after the last step: leave the weights masked, and check."""
        self.check()

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs beyond the weights, the optimizer's state and what `begin` is given.

        Equal on every rank.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there; called before `begin`, which then installs the masks that were in force."""

    @property
    def _weights(self) -> "MaskedWeights":
        assert self._begun is not None, "nothing has begun: begin() comes first"
        return self._begun

    def _install(self) -> None:
        """Put the masks in force."""
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
        """Whether the masks change now, given that this step is `due` to."""
        if not (due or self._deferred):
            return False
        self._deferred = not bool(finite)
        return not self._deferred

    def _change(self, masks: "Masks") -> None:
        """Put new masks in force."""
        self._masks = masks
        self._install()
        self._agree(masks)
