"""The masked weights of a training, as mask updates use them, whether whole or sharded over ranks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.scores import magnitude
from elth_dist.sparsity.selection import Threshold, identity, prune_to


class MaskedOptimizer(Protocol):
    """What masked weights need of the optimizer; training.masked implements it."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state tensors that masks act on: SGD's "momentum_buffer", AdamW's "exp_avg" and "exp_avg_sq"."""

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """The state of each trained tensor: its `slots`, of the tensor's shape, and counters.

        The tensors are the parameters; under ZeRO 1 to 3, the flat partitions that this rank trains.
        """

    def set_masks(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Keep weights and their slots at exactly zero where these masks are False, from now on."""

    def not_zero(self) -> tuple[list[nn.Parameter], dict[str, list[nn.Parameter]]]:
        """List masked parameters with a pruned weight that is not exactly zero; and for each slot, the same, if any.

        Checks the part that this rank holds.
        """


class MaskedWeights(ABC):
    """Prunable weights in training, by name; fp32. Call all methods equally on every rank: some are collective.

    Args:
        parameters: of the training model, in `named_parameters` order.
        optimizer: the optimizer that trains them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        self._parameters, self._optimizer = dict(parameters), optimizer
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._installed: Masks | None = None
        self._computing: Masks | None = None
        self._multiplied: Masks | None = None  # the masks that they are made from
        self._multipliers: list[Tensor] = []

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._parameters)

    @property
    def device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    def set_masks(self, masks: Masks) -> None:
        """Keep weights and the optimizer's slots at exactly zero where these masks are False, from now on.

        Weights that grow back start at zero, with slots of zero.
        """
        self._optimizer.set_masks(self._by_parameter(masks))
        self._installed = masks

    def check(self) -> None:
        """Check that every pruned weight and its optimizer slots are exactly zero; AssertionError names the tensors.

        Checks the part that this rank holds: the weights that compute, and those that train.
        """
        weights, slots = self._optimizer.not_zero()
        wrong = [self._names[weight] for weight in weights] + self._computed_not_zero()
        assert not wrong, f"pruned weights are not zero in {', '.join(wrong)}"
        for slot, parameters in slots.items():
            names = ", ".join(self._names[parameter] for parameter in parameters)
            raise AssertionError(f"the {slot} of pruned weights is not zero in {names}")

    @abstractmethod
    def whole(self, name: str) -> Tensor:
        """Return a trained weight of its whole shape; do not write to it."""

    @abstractmethod
    def gradient(self, name: str) -> Tensor:
        """Return the mean gradient over the global batch; valid from an engine's finish_gradients() to its step().

        Of the weight's whole shape, unscaled and dense (not masked yet); do not write to it.
        """

    @abstractmethod
    def prune(self, masks: Masks, kept: int | Mapping[str, int]) -> Masks:
        """Prune `masks` (whole, on this device) by magnitude; see `selection.prune_to`.

        Equal to the bit for every engine and number of ranks.

        Args:
            masks: the weights that may stay.
            kept: how many stay: of all together, or of each by name.
        """

    @contextmanager
    def computing(self, masks: Masks) -> Iterator[None]:
        """Let forward and backward compute with weights that are zero where `masks` are False (DPF).

        The end of the context restores the trained weights. Passing the same object means the same masks.
        """
        with torch.no_grad():
            if self._multiplied is not masks:
                self._multiplied, self._multipliers = masks, self._multipliers_of(masks)
            self._swap_in()
        self._computing = masks
        try:
            yield
        finally:
            self._computing = None
            with torch.no_grad():
                self._swap_out()

    def _by_parameter(self, masks: Masks) -> dict[nn.Parameter, Tensor]:
        return {self._parameters[name]: mask for name, mask in masks.items()}

    @abstractmethod
    def _multipliers_of(self, masks: Masks) -> list[Tensor]:
        """Return masks as the factors that `_swap_in` multiplies with."""

    @abstractmethod
    def _swap_in(self) -> None:
        """Mask the weights to compute with."""

    @abstractmethod
    def _swap_out(self) -> None:
        """Restore the trained weights, if they were masked."""

    def _computed_not_zero(self) -> list[str]:
        """List, while `computing`, the weights that are not zero where pruned."""
        return [] if self._computing is None else self._computing.check_zero(self._parameters)


class WholeWeights(MaskedWeights):
    """Masked weights of which every rank holds all: the parameters themselves are trained.

    `share`: see `selection.prune`.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: MaskedOptimizer,
        share: Callable[[Threshold], Iterable[int]] = identity,
    ) -> None:
        super().__init__(parameters, optimizer)
        self._share = share
        self._dense: list[Tensor] = []  # copies of the trained weights, while the parameters are masked

    def whole(self, name: str) -> Tensor:
        return self._parameters[name].detach()

    def gradient(self, name: str) -> Tensor:
        gradient = self._parameters[name].grad
        assert gradient is not None, f"{name} has no gradient"
        return gradient

    def prune(self, masks: Masks, kept: int | Mapping[str, int]) -> Masks:
        return prune_to(masks, magnitude(self._parameters), kept, self._share)

    def _multipliers_of(self, masks: Masks) -> list[Tensor]:
        return [torch.empty_like(p).copy_(masks[name]) for name, p in self._parameters.items()]

    def _swap_in(self) -> None:
        parameters: list[Tensor] = list(self._parameters.values())
        self._dense = self._dense or [torch.empty_like(parameter) for parameter in parameters]
        torch._foreach_copy_(self._dense, parameters)
        torch._foreach_mul_(parameters, self._multipliers)

    def _swap_out(self) -> None:
        torch._foreach_copy_(list(self._parameters.values()), self._dense)
