"""Torch optimizers that keep pruned weights at exactly zero, for the price of one fused multiplication per step."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

ByParameter = Mapping[nn.Parameter, Tensor]
ByName = Mapping[str, Tensor]


class Masked(torch.optim.Optimizer):
    """The base of masked optimizers, which wraps the step of one of torch's fused optimizers.

    A step multiplies the *gradients* of the masked weights by 0 or 1. A pruned weight and its slots, once zero, then
    stay exactly zero, because its gradient and its decay are 0. Forward and backward use no masks.

    It works with torch.amp.GradScaler without waiting for the device: the scaler's `grad_scale` and `found_inf` go into
    the fused kernel, which skips a step with non-finite gradients. (The gradients then contain 0 x inf = NaN, which
    reaches no weight.) All state exists from the start, as zeros, because the first step may be skipped.

    Masks belong to the run, not to the optimizer's state_dict; load_state_dict leaves them in force.

    Args:
        params: parameters, (name, parameter) pairs or parameter groups; fp32 or float64.
        options: of torch's optimizer.
        masks: see `set_masks`. Pruned weights are set to zero at once; parameters without a mask train as usual.
    """

    #: Names of the state tensors, of each parameter's shape, that masks act on.
    slots: ClassVar[tuple[str, ...]]
    #: Names of the state that counts a parameter's steps: 0-d fp32 on its device.
    counters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: ParamsT, masks: ByParameter | ByName | None = None, **options: Any) -> None:
        self._multipliers: dict[Tensor, Tensor] = {}
        self._skip = 0
        super().__init__(params, **{**options, "fused": True})
        if masks:
            self.set_masks(masks)

    def slots_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of `slots` that the parameters of a group have."""
        return self.slots

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as in torch, and create the state of its parameters."""
        super().add_param_group(param_group)
        self._settle()

    @torch.no_grad()
    def set_masks(self, masks: ByParameter | ByName) -> None:
        """Replace all masks; parameters without a mask then train as usual.

        Pruned weights and their slots are set to zero, all others keep their values (a weight that grows back is zero,
        with all slots zero).

        Args:
            masks: bool, of the parameter's shape, True: kept. By parameter; or by name (`ticket.masks`), if the
                optimizer was made from `model.named_parameters()`.

        Raises:
            ValueError: a parameter or name that the optimizer does not have, or a mask that is not bool or not of the
                parameter's shape. Nothing is changed then.
        """
        names = self._names()
        known = {parameter for _, parameter in self._parameters()}
        resolved: dict[Tensor, Tensor] = {}
        for key, mask in masks.items():
            parameter: Tensor = _by_name(key, names) if isinstance(key, str) else key
            if parameter not in known:
                raise ValueError(f"a mask for a parameter {list(parameter.shape)} that the optimizer does not have")
            if mask.dtype != torch.bool or mask.shape != parameter.shape:
                what = repr(key) if isinstance(key, str) else "a parameter"
                raise ValueError(
                    f"a mask of {mask.dtype} {list(mask.shape)} for {what} {list(parameter.shape)}; "
                    f"must be bool and of the same shape"
                )
            resolved[parameter] = mask
        self._multipliers = {}
        for parameter, mask in resolved.items():
            pruned = mask.to(parameter.device).logical_not()
            parameter.masked_fill_(pruned, 0)
            for slot in self._slots_at(parameter).values():
                slot.masked_fill_(pruned, 0)
            self._multipliers[parameter] = torch.empty_like(parameter).copy_(mask)

    @torch.no_grad()
    def not_zero(self) -> tuple[list[nn.Parameter], dict[str, list[nn.Parameter]]]:
        """List parameters with a pruned weight that is not exactly zero; and for each slot, the same, if any."""
        weights = self._not_zero({parameter: parameter for parameter in self._multipliers})
        slots = {}
        for name in self.slots:
            states = {parameter: self._slots_at(parameter).get(name) for parameter in self._multipliers}
            slots[name] = self._not_zero({p: state for p, state in states.items() if state is not None})
        return weights, {name: wrong for name, wrong in slots.items() if wrong}

    def _not_zero(self, tensors: Mapping[Any, Tensor]) -> list[nn.Parameter]:
        """List keys whose tensor is not zero (NaN included) at a pruned entry."""
        counts = [
            tensor.masked_fill(self._multipliers[parameter] != 0, 0).count_nonzero()
            for parameter, tensor in tensors.items()
        ]
        read = torch.stack(counts).tolist() if counts else []
        return [parameter for parameter, count in zip(tensors, read, strict=True) if count]

    def skip_next(self, calls: int = 1) -> None:
        """Make the next `calls` of `step` change nothing (for a mask update that takes the step's place); 0: none.

        One training step takes several calls if an engine updates its partitions one after the other.
        """
        self._skip = calls

    def restart(self) -> None:
        """Forget all state, masks and names, for an engine that has put other tensors into `param_groups` (ZeRO)."""
        self.state.clear()
        for group in self.param_groups:
            group.pop("param_names", None)
        self._multipliers = {}
        self._settle()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; masks the gradients of masked weights in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._skip:
            self._skip -= 1
            return loss
        gradients, multipliers = [], []
        for _, parameter in self._parameters():
            if parameter.grad is None:
                continue
            for slot in self._slots_at(parameter).values():
                assert _same_layout(slot, parameter), "the weights' memory format changed under the optimizer"
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
        """Load as in torch. Masks stay; slots take on the parameters' strides, which a file may have lost."""
        super().load_state_dict(state_dict)
        self._settle()

    @torch.no_grad()
    def _settle(self) -> None:
        """Create missing state as zeros, and give slots the parameters' strides."""
        for group, parameter in self._parameters():
            state = self.state[parameter]
            for name in self.counters:
                if name not in state:
                    state[name] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in self.slots_of(group):
                slot = state.get(name)
                if slot is None:
                    state[name] = torch.zeros_like(parameter)
                elif not _same_layout(slot, parameter):
                    state[name] = torch.empty_like(parameter).copy_(slot)

    def _parameters(self) -> Iterator[tuple[dict[str, Any], nn.Parameter]]:
        """Yield each parameter with its group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                yield group, parameter

    def _names(self) -> dict[str, nn.Parameter]:
        """Map names to parameters, if the optimizer was made with names."""
        return {
            name: parameter
            for group in self.param_groups
            for name, parameter in zip(group.get("param_names", ()), group["params"], strict="param_names" in group)
        }

    def _slots_at(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the slots that a parameter has."""
        state = self.state.get(parameter, {})
        return {name: state[name] for name in self.slots if state.get(name) is not None}


class MaskedSGD(Masked, torch.optim.SGD):
    """torch's fused SGD (momentum without dampening, Nesterov, L2 weight decay) with masks; see `Masked`.

    Args:
        params, masks: see `Masked`.
        lr, momentum, weight_decay, nesterov: as for torch.optim.SGD.
    """

    slots = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        masks: ByParameter | ByName | None = None,
    ) -> None:
        super().__init__(params, masks, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def slots_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["momentum"] else ()


class MaskedAdamW(Masked, torch.optim.AdamW):
    """torch's fused AdamW (Adam with decoupled weight decay: Loshchilov & Hutter 2019) with masks; see `Masked`.

    Both moments of a pruned weight are exactly zero. Steps are counted per tensor, so that a weight that grows back
    gets the bias correction of a long-trained tensor: its first steps are larger than a first step of Adam.

    Args:
        params, masks: see `Masked`.
        lr, betas, eps, weight_decay: as for torch.optim.AdamW; eps above 1e-30, or a pruned weight would be 0 / 0.
    """

    slots = ("exp_avg", "exp_avg_sq")
    counters = ("step",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        masks: ByParameter | ByName | None = None,
    ) -> None:
        if not eps > 1e-30:
            raise ValueError(f"eps {eps}: must be above 1e-30, or pruned weights become 0 / 0")
        super().__init__(params, masks, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def _same_layout(tensor: Tensor, parameter: Tensor) -> bool:
    """Tell whether both have the same order in memory, which the fused kernels on CPUs assume."""
    strides, expected = tensor.stride(), parameter.stride()
    if strides == expected:
        return True
    return all(size == 1 or a == b for size, a, b in zip(parameter.shape, strides, expected, strict=True))


def _by_name(name: str, names: Mapping[str, nn.Parameter]) -> nn.Parameter:
    if not names:
        raise ValueError(
            f"a mask for {name!r}, but the optimizer knows no names: make it from model.named_parameters()"
        )
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"a mask for {name!r}, a parameter that the optimizer does not have{hint}")
    return names[name]
