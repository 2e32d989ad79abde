"""DistributedDataParallel over NCCL or gloo; with one rank, the bare module."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elth_dist.engines.batchnorm import average_batchnorm, synchronised
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import BuildOptimizer, StepOutcome, TrainingOptimizer
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.states import copy_into, load_state, save_state
from elth_dist.sparsity.masked_weights import MaskedWeights, WholeWeights

# Each rank keeps its own BatchNorm statistics between averagings. torch 2.15 renamed the option.
_RANKS_KEEP_THEIR_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)


class DdpEngine:
    """The Engine in which every rank holds the whole model; weights and activations are channels_last."""

    def __init__(self, ranks: Ranks, options: EngineOptions, numerics: Numerics) -> None:
        self._ranks = ranks
        self._options = options
        self._numerics = numerics
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=numerics.precision == "fp16")
        self._outcome: StepOutcome | None = None  # of the step whose gradients are finished

    def prepare(self, model: nn.Module, build_optimizer: BuildOptimizer, batch_shape: tuple[int, ...]) -> None:
        model = model.to(self._ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._numerics.sync_bn:
            model = synchronised(model, self._ranks)
        self._model = model
        self._optimizer = build_optimizer(model)
        forward: nn.Module = torch.compile(model) if self._numerics.compile else model  # type: ignore[assignment]
        self._alone = forward
        if not self._ranks.alone:
            device_ids = [self._ranks.device] if self._ranks.device.type == "cuda" else None
            forward = DistributedDataParallel(
                forward,
                device_ids=device_ids,
                **_RANKS_KEEP_THEIR_BUFFERS,
                gradient_as_bucket_view=True,
                bucket_cap_mb=self._options.bucket_mib,
            )
        self._forward = forward
        self._settle(batch_shape)

    def _settle(self, batch_shape: tuple[int, ...]) -> None:
        """Run two backward passes, so that DDP has its final gradient buckets before training starts.

        DDP regroups its buckets after the first backward pass, which changes the order of sums over ranks: without
        these passes, a resumed run would add in a different order than an uninterrupted one.
        """
        if self._ranks.alone:
            return
        before = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        dtype = next(self._model.parameters()).dtype
        images = torch.zeros(batch_shape, dtype=dtype, device=self._ranks.device)
        images = images.to(memory_format=torch.channels_last)
        for _ in range(2):
            self.forward(images).sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.zero_grad()
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(before[name])

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def optimizer(self) -> TrainingOptimizer:
        return self._optimizer

    def masked(self, parameters: Mapping[str, nn.Parameter]) -> MaskedWeights:
        return WholeWeights(parameters, self._optimizer, share=self._ranks.broadcast_json)

    @contextlib.contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        if last or not isinstance(self._forward, DistributedDataParallel):
            yield
        else:
            with self._forward.no_sync():
                yield

    def forward(self, images: Tensor) -> Tensor:
        # DDP's forward synchronises ranks, which in evaluation may run different numbers of batches
        module = self._forward if self._model.training else self._alone
        with self._numerics.autocasting(self._ranks.device):
            logits: Tensor = module(images)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def finish_gradients(self) -> Tensor:
        optimizer: Any = self._optimizer
        self._scaler.unscale_(optimizer)
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._outcome = StepOutcome(torch.isfinite(norm), norm)
        return self._outcome.applied

    def step(self) -> StepOutcome:
        outcome, self._outcome = self._outcome, None
        assert outcome is not None, "step() without finish_gradients()"
        optimizer: Any = self._optimizer
        if self._scaler.is_enabled():
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            optimizer.found_inf = (~outcome.applied).float()
            optimizer.step()
        optimizer.zero_grad()
        return outcome

    def average_batchnorm(self) -> None:
        average_batchnorm(self._model, self._ranks)

    def weights(self) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = self._model.state_dict()
        return state

    def save(self, folder: Path) -> None:
        own = {"buffers": dict(self._model.named_buffers())}
        save_state(folder / f"engine-{self._ranks.rank:05d}.safetensors", own)
        if self._ranks.is_main:  # weights and optimizer are equal on every rank
            whole = {
                "weights": dict(self._model.named_parameters()),
                "optimizer": [self._optimizer.state[p] for p in self._parameters()],
                "scaler": self._scaler.state_dict(),
            }
            save_state(folder / "engine.safetensors", whole)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        own = load_state(folder / f"engine-{self._ranks.rank:05d}.safetensors")
        whole = load_state(folder / "engine.safetensors")
        copy_into(dict(self._model.named_buffers()), own["buffers"])
        copy_into(dict(self._model.named_parameters()), whole["weights"])
        for parameter, saved in zip(self._parameters(), whole["optimizer"], strict=True):
            copy_into(self._optimizer.state[parameter], saved)
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(whole["scaler"])

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def close(self) -> None:
        del self._forward, self._alone, self._optimizer, self._model
