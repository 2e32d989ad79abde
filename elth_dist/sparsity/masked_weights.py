"""The masked weights of a training as an update sees them, whichever rank holds what of them."""

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
    """What masked weights need of the optimizer; training.masked has some."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state that masks act on: SGD's "momentum_buffer", AdamW's "exp_avg" and "exp_avg_sq"."""

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Each trained tensor's state: those of `slots` that it has, of the tensor's shape, and counters.

        The tensors are the parameters; under ZeRO 1 to 3, the flat partitions of them that this rank trains.
        """

    def set_masks(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Keep the weights where these masks are False, and their slots, at exactly zero from now on."""

    def not_zero(self) -> tuple[list[nn.Parameter], dict[str, list[nn.Parameter]]]:
        """Masked parameters with a pruned weight that is not exactly zero; and by slot, those with such a slot, if any.

        As far as this rank holds them.
        """


class MaskedWeights(ABC):
    """Prunable weights in training, by name; fp32. All methods are called on every rank alike: some are collective.

    Args:
        parameters: of the model that trains, in `named_parameters` order.
        optimizer: what trains them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        self._parameters, self._optimizer = dict(parameters), optimizer
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._installed: Masks | None = None
        self._computing: Masks | None = None
        self._multiplied: Masks | None = None  # what these are made from
        self._multipliers: list[Tensor] = []

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._parameters)

    @property
    def device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    def set_masks(self, masks: Masks) -> None:
        """Keep weights where these masks are False, and the optimizer's slots, at exactly zero from now on.

        Weights that come back are zero, and so are their slots.
        """
        self._optimizer.set_masks(self._by_parameter(masks))
        self._installed = masks

    def check(self) -> None:
        """AssertionError, naming the tensors, unless every pruned weight and its optimizer slots are exactly zero.

        As far as this rank holds them, and the weights to compute with as well as those that are trained.
        """
        weights, slots = self._optimizer.not_zero()
        wrong = [self._names[weight] for weight in weights] + self._computed_not_zero()
        assert not wrong, f"pruned weights are not zero in {', '.join(wrong)}"
        for slot, parameters in slots.items():
            names = ", ".join(self._names[parameter] for parameter in parameters)
            raise AssertionError(f"the {slot} of pruned weights is not zero in {names}")

    @abstractmethod
    def whole(self, name: str) -> Tensor:
        """A weight as it is trained, of its whole shape; not to be written to."""

    @abstractmethod
    def gradient(self, name: str) -> Tensor:
        """Between an engine's finish_gradients() and step(): the mean gradient over the global batch.

        Of the weight's whole shape, unscaled and dense (nothing is masked yet); not to be written to.
        """

    @abstractmethod
    def prune(self, masks: Masks, kept: int | Mapping[str, int]) -> Masks:
        """`masks` (whole, on this device) without the weights that are smallest in magnitude; see `selection.prune_to`.

        To the bit the same whatever the engine and the number of ranks.

        Args:
            masks: which weights can stay.
            kept: how many do: of all together, or of each by name.
        """

    @contextmanager
    def computing(self, masks: Masks) -> Iterator[None]:
        """A context in which forward and backward see the weights zero where `masks` are False (DPF).

        What the optimizer trains is as before when it ends. The same object means the same masks.
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
        """For the next ones of `_swap_in`."""

    @abstractmethod
    def _swap_in(self) -> None:
        """Multiply the weights to compute with."""

    @abstractmethod
    def _swap_out(self) -> None:
        """Bring back what the optimizer trains, where it was multiplied."""

    def _computed_not_zero(self) -> list[str]:
        """While `computing`, names of the weights that are not zero where they should be."""
        return [] if self._computing is None else self._computing.check_zero(self._parameters)


class WholeWeights(MaskedWeights):
    """Every rank holds all of them: the parameters are what is trained.

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
        self._dense: list[Tensor] = []  # where the trained weights wait while others stand in their place

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
