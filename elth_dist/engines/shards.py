"""ZeRO 1 to 3 on one rank: the flat fp32 partitions that it trains, and the stretches of weights in them.

Only this file and deepspeed.py use DeepSpeed's internals.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elth_dist.engines.protocol import TrainingOptimizer
from elth_dist.sparsity.selection import Fragment


class Stretch(NamedTuple):
    """Elements start .. start + length - 1 of a parameter (by flat index) and their place on this rank."""

    parameter: nn.Parameter
    start: int
    length: int
    partition: int
    offset: int


class ShardedOptimizer:
    """The job's optimizer on this rank's partitions, with the interface of one that trains the whole parameters.

    Args:
        base: the optimizer from build_optimizer, whose parameters DeepSpeed has replaced by its flat partitions.
        zero: DeepSpeed's optimizer around `base`, of stage 1, 2 or 3.
        names: of all parameters.
        rank: this rank.
    """

    def __init__(self, base: TrainingOptimizer, zero: Any, names: Mapping[nn.Parameter, str], rank: int) -> None:
        self._base, self._zero, self._names = base, zero, names
        self.param_groups = base.param_groups  # hyperparameters; DeepSpeed moves tensors in and out of "params"
        self.shares_weights = hasattr(zero, "fp32_partitioned_groups_flat")  # stage 3
        self._stretches = list(self._stretches_of_stage_3(rank) if self.shares_weights else self._stretches_of_1_2())
        self._kept_whole = set(zero.persistent_parameters) if self.shares_weights else set()
        self._masks: Mapping[nn.Parameter, Tensor] = {}
        self._kept: list[Tensor] = []  # of each partition: bool, False where pruned
        self._check_layout()
        self._clear_padding()
        with self._every_partition_in_its_group():
            base.restart()

    @torch.no_grad()
    def _check_layout(self) -> None:
        """Check that each stretch of the partitions equals its place in the parameter, so that masks apply there."""
        same = []
        for parameter, start, length, index, offset in self._stretches:
            here: Any = parameter
            own = here.ds_tensor[:length] if self.shares_weights else here.view(-1)[start : start + length]
            same.append(torch.equal(own, self.partitions[index][offset : offset + length]))
        assert all(same), "this version of elth_dist does not know how this DeepSpeed lays out its partitions"

    @torch.no_grad()
    def _clear_padding(self) -> None:
        """Set to 0 what belongs to no parameter: stage 3 leaves memory there as it found it, and decay spreads it."""
        used = [torch.zeros_like(partition, dtype=torch.bool) for partition in self.partitions]
        for _, _, length, index, offset in self._stretches:
            used[index][offset : offset + length] = True
        every = [self.partitions] + ([self._zero.fp16_partitioned_groups_flat] if self.shares_weights else [])
        for flats in every:
            for flat, own in zip(flats, used, strict=True):
                flat.masked_fill_(~own, 0)

    @property
    def partitions(self) -> Sequence[Tensor]:
        """This rank's flat fp32 master weights, with padding, always 0, at the ends of some."""
        zero = self._zero
        partitions: Sequence[Tensor]
        partitions = zero.fp32_partitioned_groups_flat if self.shares_weights else zero.single_partition_of_fp32_groups
        return partitions

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state tensors that masks act on."""
        return self._base.slots

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Each partition's state."""
        return self._base.state

    @property
    def states(self) -> list[dict[str, Any]]:
        """The state of each partition, in order."""
        return [self._base.state[partition] for partition in self.partitions]

    def step(self) -> Any:
        """Refuse: DeepSpeed steps the partitions itself."""
        raise AssertionError("call the engine's step(), not its optimizer's")

    def zero_grad(self) -> None:
        self._zero.zero_grad()

    def skip_next(self, calls: int = 1) -> None:
        """Make the next `calls` training steps change nothing; DeepSpeed calls step() once per partition."""
        self._base.skip_next(calls * len(self.partitions))

    def restart(self) -> None:
        """Forget all state and masks."""
        self._masks, self._kept = {}, []
        with self._every_partition_in_its_group():
            self._base.restart()

    @torch.no_grad()
    def set_masks(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Replace all masks (bool, of the whole parameter's shape) and apply them to master weights and slots.

        ValueError for a parameter that the optimizer does not have, or a mask that is not bool or not of its shape.
        Collective: the weights to compute with are gathered again.
        """
        for parameter, mask in masks.items():
            if parameter not in self._names:
                raise ValueError(f"a mask for a parameter {list(mask.shape)} that the optimizer does not have")
            if mask.dtype != torch.bool or mask.shape != whole_shape(parameter):
                raise ValueError(
                    f"a mask of {mask.dtype} {list(mask.shape)} for {self._names[parameter]} "
                    f"{list(whole_shape(parameter))}; must be bool and of the same shape"
                )
        self._masks, self._kept = dict(masks), self.flat(masks)
        with self._every_partition_in_its_group():
            own: Any = dict(zip(self.partitions, self._kept, strict=True))
            self._base.set_masks(own)
        self.publish()

    def flat(self, masks: Mapping[nn.Parameter, Tensor]) -> list[Tensor]:
        """Return this rank's part of the masks, laid out as `partitions`; True elsewhere."""
        kept = [torch.ones_like(partition, dtype=torch.bool) for partition in self.partitions]
        for parameter, start, length, index, offset in self._stretches:
            if parameter in masks:
                own = masks[parameter].reshape(-1)[start : start + length]
                kept[index][offset : offset + length] = own.to(kept[index].device)
        return kept

    def not_zero(self) -> tuple[list[nn.Parameter], dict[str, list[nn.Parameter]]]:
        """List masked parameters with a pruned weight that is not exactly zero on this rank; the same for each slot."""
        weights = self.wrong(self.partitions, self._kept, self._masks)
        states = self.states
        slots = {
            name: self.wrong([state.get(name) for state in states], self._kept, self._masks) for name in self.slots
        }
        return weights, {name: parameters for name, parameters in slots.items() if parameters}

    @torch.no_grad()
    def wrong(
        self, tensors: Sequence[Tensor | None], kept: Sequence[Tensor], masked: Mapping[nn.Parameter, Any]
    ) -> list[nn.Parameter]:
        """List `masked` parameters whose pruned entries in `tensors`, laid out as `partitions`, are not all zero."""
        counts: list[Tensor] = []
        looked_at: list[nn.Parameter] = []
        for parameter, _, length, index, offset in self._stretches:
            tensor = tensors[index]
            if parameter in masked and tensor is not None:
                own = slice(offset, offset + length)
                counts.append(tensor[own].masked_fill(kept[index][own], 0).count_nonzero())
                looked_at.append(parameter)
        nonzero = torch.stack(counts).tolist() if counts else []
        return [parameter for parameter, count in zip(looked_at, nonzero, strict=True) if count]

    def gradient_norm(self) -> tuple[Tensor, Tensor]:
        """Return (L2 norm of the whole gradient times the loss scale, whether it is finite), 0-d, equal on every rank.

        DeepSpeed's step() decides by the same sum. Collective.
        """
        from deepspeed.runtime.utils import combine_grad_norm_groups

        zero = self._zero
        norm = combine_grad_norm_groups(zero._get_norm_groups()) if self.shares_weights else zero.scaled_global_norm()
        return norm.float(), torch.isfinite(norm)

    @torch.no_grad()
    def magnitudes(self) -> list[Fragment]:
        """Return |master weight| of every stretch on this rank."""
        partitions = self.partitions
        return [
            Fragment(self._names[parameter], start, partitions[index].detach()[offset : offset + length].abs())
            for parameter, start, length, index, offset in self._stretches
        ]

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """Gather a parameter's whole master weights. Collective."""
        from deepspeed.utils import safe_get_full_fp32_param

        master: Tensor = safe_get_full_fp32_param(parameter)
        return master

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """Gather a parameter's whole gradient, times the loss scale, from finish_gradients() to step(). Collective."""
        gradient: Tensor
        # not safe_get_full_grad: in stage 1 it may return a `grad` of this rank only
        gradient = (
            self._zero.get_fp32_grad_for_param(parameter) if self.shares_weights else parameter.get_full_hp_grad()  # type: ignore[attr-defined]
        )
        return gradient

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the partitions, after a write to them, to the weights that the network computes with. Collective."""
        zero = self._zero
        if not self.shares_weights:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()
        for index in range(len(self.partitions)):
            zero._reassign_or_swap_out_partitioned_parameters(index)
        if zero.persistent_parameters:  # small ones that every rank keeps whole
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
        self._settle()

    def computed_with(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """Return the tensors that the network computes with on this rank, as distinct from the master weights.

        Stages 1 and 2: the parameters. Stage 3: flat partitions like `partitions`, and the parameters that every rank
        keeps whole.
        """
        if not self.shares_weights:
            return [parameter.detach() for parameter in parameters]
        flat: list[Tensor] = list(self._zero.fp16_partitioned_groups_flat)
        return flat + [parameter.data for parameter in parameters if parameter in self._kept_whole]

    def multipliers(self, masks: Mapping[nn.Parameter, Tensor]) -> list[Tensor]:
        """Return masks as factors 0 and 1 of `computed_with(masks)`."""
        if not self.shares_weights:
            return [torch.empty_like(parameter).copy_(mask) for parameter, mask in masks.items()]
        pairs = zip(self.computed_with([]), self.partitions, strict=True)
        apart = all(copy.data_ptr() != master.data_ptr() for copy, master in pairs)
        assert apart, "this DeepSpeed computes with the master weights themselves: there are no copies to mask"
        whole = [mask.to(p.device, torch.float32) for p, mask in masks.items() if p in self._kept_whole]
        return [kept.float() for kept in self.flat(masks)] + whole

    @torch.no_grad()
    def multiply(self, parameters: Iterable[nn.Parameter], multipliers: list[Tensor]) -> None:
        """Mask what the network computes with; the next publish() or step copies it from the master weights again."""
        torch._foreach_mul_(self.computed_with(parameters), multipliers)
        self._settle()

    def _settle(self) -> None:
        """Wait for writes in stage 3, which gathers on a stream of its own without waiting for them."""
        if self.shares_weights and self.partitions[0].is_cuda:
            torch.cuda.current_stream().synchronize()

    def _stretches_of_1_2(self) -> Iterator[Stretch]:
        for index, group in enumerate(self._zero.bit16_groups):
            for parameter in group:
                here = parameter._hp_mapping
                if here is not None:
                    whole, flat = here.lp_fragment_address, here.hp_fragment_address
                    yield Stretch(parameter, whole.start, whole.numel, index, flat.start)

    def _stretches_of_stage_3(self, rank: int) -> Iterator[Stretch]:
        for index, group in enumerate(self._zero.fp16_groups):
            offset = 0
            for parameter in group:
                share = parameter.partition_numel()  # equal on every rank: the last ones hold padding
                start = rank * share
                length = min(share, max(0, parameter.ds_numel - start))
                if length:
                    yield Stretch(parameter, start, length, index, offset)
                offset += share

    @contextlib.contextmanager
    def _every_partition_in_its_group(self) -> Iterator[None]:
        """Put every partition into its group: stage 3 fills `param_groups` only in a step, one partition at a time."""
        if not self.shares_weights:
            yield
            return
        self._zero._set_fp32_optimizer_param_groups()
        try:
            yield
        finally:
            self._zero._clear_fp32_optimizer_param_groups()


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Return the shape of the whole parameter, also where ZeRO 3 has sharded it."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape
