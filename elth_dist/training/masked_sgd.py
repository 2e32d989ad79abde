"""SGD that keeps pruned weights at exactly zero, for the price of one fused multiplication a step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MaskedSGD(torch.optim.SGD):
    """torch's fused SGD (momentum without dampening, Nesterov, L2 weight decay) with masks.

    A step multiplies the *gradients* of the masked weights by 0 or 1. A pruned weight and its momentum, once zero, then
    stay exactly zero: its gradient is 0, and so is its decay. Forward and backward know nothing of masks.

    It works with torch.amp.GradScaler without waiting for the device: the scaler's `grad_scale` and `found_inf` go into
    the fused kernel, which skips a step of non-finite gradients itself. (0 x inf = NaN is among the gradients then; it
    reaches no weight.) Momentum starts as zeros, not as the first gradient, since that one may be skipped.

    Masks are the run's, not the optimizer's: they are not in its state_dict, and load_state_dict leaves them in force.

    Args:
        params: parameters or parameter groups, as for torch.optim.SGD; fp32 or float64.
        lr, momentum, weight_decay, nesterov: as for torch.optim.SGD.
        masks: bool, of the parameter's shape, for each parameter that has one; True: kept. Their pruned weights are set
            to zero at once. Parameters without a mask are trained like any.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        masks: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)
        self._multipliers: dict[Tensor, Tensor] = {}
        self._skip = 0
        self._settle_momentum()
        if masks:
            self.set_masks(masks)

    @torch.no_grad()
    def set_masks(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Replace all masks; parameters not named have none from now on.

        Weights and momentum are set to zero where they are pruned, and keep their values elsewhere (a weight that comes
        back is zero, with zero momentum). ValueError for a parameter that is not the optimizer's, or a mask that is not
        bool or not of its shape.
        """
        known = {parameter for group in self.param_groups for parameter in group["params"]}
        for parameter, mask in masks.items():
            if parameter not in known:
                raise ValueError(f"a mask for a parameter {list(parameter.shape)} that the optimizer does not have")
            if mask.dtype != torch.bool or mask.shape != parameter.shape:
                raise ValueError(
                    f"a mask of {mask.dtype} {list(mask.shape)} for a parameter {list(parameter.shape)}; "
                    f"bool and the same shape is wanted"
                )
        self._multipliers = {}
        for parameter, mask in masks.items():
            pruned = mask.to(parameter.device).logical_not()
            parameter.masked_fill_(pruned, 0)
            momentum = self.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                momentum.masked_fill_(pruned, 0)
            self._multipliers[parameter] = torch.empty_like(parameter).copy_(mask)

    @torch.no_grad()
    def not_zero(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters with a pruned weight, and those with a pruned weight's momentum, that is not exactly zero."""
        weights = self._not_zero({parameter: parameter for parameter in self._multipliers})
        slots = {parameter: self.state.get(parameter, {}).get("momentum_buffer") for parameter in self._multipliers}
        return weights, self._not_zero({parameter: slot for parameter, slot in slots.items() if slot is not None})

    def _not_zero(self, tensors: Mapping[Any, Tensor]) -> list[nn.Parameter]:
        """Keys whose tensor holds anything but zero, NaN included, where the key is pruned."""
        counts = [
            tensor.masked_fill(self._multipliers[parameter] != 0, 0).count_nonzero()
            for parameter, tensor in tensors.items()
        ]
        found = torch.stack(counts).tolist() if counts else []
        return [parameter for parameter, count in zip(tensors, found, strict=True) if count]

    def skip_next(self, calls: int = 1) -> None:
        """Make the next `calls` of `step` change nothing (for a mask update that takes the step's place); 0: none.

        One step of a training takes several calls where an engine updates its partitions one after the other.
        """
        self._skip = calls

    def restart(self) -> None:
        """Forget all state and masks, for an engine that has put other tensors into `param_groups` (ZeRO)."""
        self.state.clear()
        self._multipliers = {}
        self._settle_momentum()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; the gradients of masked weights are masked in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._skip:
            self._skip -= 1
            return loss
        gradients, multipliers = [], []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state.get(parameter, {}).get("momentum_buffer", parameter)
                assert _same_layout(momentum, parameter), "the weights' memory format changed under the optimizer"
                if not _same_layout(parameter.grad, parameter):
                    parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
                if parameter in self._multipliers:
                    gradients.append(parameter.grad)
                    multipliers.append(self._multipliers[parameter])
        if gradients:
            torch._foreach_mul_(gradients, multipliers)
        super().step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. The masks stay; momentum takes on the parameters' strides, whatever a file has made of them."""
        super().load_state_dict(state_dict)
        self._settle_momentum()

    @torch.no_grad()
    def _settle_momentum(self) -> None:
        for group in self.param_groups:
            if group["momentum"] == 0:
                continue
            for parameter in group["params"]:
                found = self.state[parameter].get("momentum_buffer")
                if found is None:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                elif not _same_layout(found, parameter):
                    self.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(found)


def _same_layout(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether both lie in memory in the same order; the fused kernels on CPUs take that for granted."""
    strides, expected = tensor.stride(), parameter.stride()
    if strides == expected:
        return True
    return all(size == 1 or a == b for size, a, b in zip(parameter.shape, strides, expected, strict=True))
