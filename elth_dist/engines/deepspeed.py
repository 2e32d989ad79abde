"""DeepSpeed's ZeRO, stages 0 to 3, over NCCL or gloo: optimizer state, gradients and weights sharded over ranks."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elth_dist.engines.batchnorm import average_batchnorm, synchronised
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import BuildOptimizer, StepOutcome, TrainingOptimizer
from elth_dist.engines.sharded_weights import ShardedWeights
from elth_dist.engines.shards import ShardedOptimizer
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.states import copy_into, load_state, save_state
from elth_dist.sparsity.masked_weights import MaskedWeights, WholeWeights

# as in torch.amp.GradScaler: starts at 2^16, halves at each overflow, doubles after 2,000 steps without one
_LOSS_SCALE: dict[str, Any] = {
    "init_scale": 2.0**16,
    "scale_window": 2000,
    "min_scale": 2.0**-16,
    "delayed_shift": 1,
    "consecutive_hysteresis": False,
    "raise_error_at_min_scale": False,
}


class DeepSpeedEngine:
    """The Engine on DeepSpeed. Weights are contiguous (ZeRO flattens them), images channels_last.

    Master weights are fp32, computation runs under DeepSpeed's torch_autocast; gradients are summed over ranks in fp32
    as under DDP. The optimizer takes its options from `train`; `engine.deepspeed_config` tunes ZeRO.
    """

    def __init__(self, ranks: Ranks, options: EngineOptions, numerics: Numerics) -> None:
        assert not (numerics.compile and options.zero_stage == 3), "EngineOptions.check() refuses it"
        self._ranks = ranks
        self._options = options
        self._numerics = numerics
        self._sharded: ShardedOptimizer | None = None  # in stages 1 to 3
        self._outcome: StepOutcome | None = None  # of the step whose gradients are finished

    def prepare(self, model: nn.Module, build_optimizer: BuildOptimizer, batch_shape: tuple[int, ...]) -> None:
        deepspeed = _import_deepspeed(self._ranks, timedelta(minutes=self._options.timeout_minutes))
        model = model.to(self._ranks.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if self._numerics.sync_bn:
            model = synchronised(model, self._ranks)
        self._model = model
        self._base = build_optimizer(model)
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._engine, zero, _, _ = deepspeed.initialize(
            model=model, optimizer=self._base, config=self._config(batch_shape[0]), dist_init_required=False
        )
        self._loss_scaler = self._take_over_loss_scaling()
        if self._options.zero_stage:
            self._sharded = ShardedOptimizer(self._base, zero, names, self._ranks.rank)
        if self._numerics.compile:
            self._engine.compile()

    def _config(self, micro_batch: int) -> dict[str, Any]:
        """Build DeepSpeed's configuration: the user's, overridden by our options."""
        dtype = self._numerics.autocast
        user = _said(self._options.deepspeed_options)
        return {
            "steps_per_print": None,
            "timers": {"throughput": {"enabled": False}},
            **{name: value for name, value in user.items() if name not in ("train_batch_size", "fp16", "bf16")},
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": 1,  # the loop decides where a step ends
            "gradient_clipping": 0.0,  # the default clips to 1
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "reduce_bucket_size": int(self._options.bucket_mib * 2**20) // 4,
                **user.get("zero_optimization", {}),
                "stage": self._options.zero_stage,
                "memory_efficient_linear": False,  # stage 3 would replace torch's linear for the rest of the process
            },
            "torch_autocast": {
                "lower_precision_safe_modules": [],  # modules listed here are reduced over ranks in the lower precision
                **user.get("torch_autocast", {}),
                "enabled": dtype is not None,
                "dtype": str(dtype or torch.float32).removeprefix("torch."),
            },
        }

    def _take_over_loss_scaling(self) -> Any:
        """Return DeepSpeed's loss scaler for fp16, which this engine updates after each step; else None.

        DeepSpeed itself never lowers the scale after an overflow under torch_autocast with ZeRO.
        """
        if self._numerics.precision != "fp16":
            return None
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        self._engine.torch_autocast_z0_gradscaler = None
        if self._options.zero_stage:
            self._engine.optimizer.torch_autocast_gradscaler = None
            self._engine.optimizer.override_loss_scale(_LOSS_SCALE["init_scale"])
        return DynamicLossScaler(**_LOSS_SCALE)

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def optimizer(self) -> TrainingOptimizer:
        return self._base if self._sharded is None else self._sharded

    def masked(self, parameters: Mapping[str, nn.Parameter]) -> MaskedWeights:
        if self._sharded is None:
            return WholeWeights(parameters, self._base, share=self._ranks.broadcast_json)
        return ShardedWeights(parameters, self._sharded, self._ranks, self._loss_scale)

    def _loss_scale(self) -> float:
        return 1.0 if self._loss_scaler is None else float(self._loss_scaler.cur_scale)

    @contextlib.contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self._engine(images)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def backward(self, loss: Tensor) -> None:
        if self._loss_scaler is not None and self._sharded is None:
            loss = loss * self._loss_scale()
        self._engine.backward(loss, scale_wrt_gas=False)

    def finish_gradients(self) -> Tensor:
        scale = self._loss_scale()
        if self._sharded is not None:
            norm, finite = self._sharded.gradient_norm()
            self._outcome = StepOutcome(finite, norm / scale)
        else:
            gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
            if scale != 1.0:
                torch._foreach_mul_(gradients, 1 / scale)
            norm = nn.utils.get_total_norm(gradients)
            self._outcome = StepOutcome(torch.isfinite(norm), norm)
        return self._outcome.applied

    def step(self) -> StepOutcome:
        outcome, self._outcome = self._outcome, None
        assert outcome is not None, "step() without finish_gradients()"
        optimizer: Any = self._base
        optimizer.found_inf = None if self._sharded is not None else (~outcome.applied).float()
        self._engine.step()
        if (
            self._sharded is not None
        ):  # DeepSpeed has checked the norm again and skipped the step where it is not finite
            self._sharded.skip_next(0)
            assert self._engine.was_step_applied() == bool(outcome.applied), (
                "DeepSpeed disagrees on whether the gradient is finite"
            )
        if self._loss_scaler is not None:
            self._loss_scaler.update_scale(not outcome.applied)
            if self._sharded is not None:
                self._engine.optimizer.override_loss_scale(self._loss_scaler.cur_scale)
        return outcome

    def average_batchnorm(self) -> None:
        average_batchnorm(self._model, self._ranks)

    def weights(self) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = self._model.state_dict()
        if self._sharded is not None:
            state |= {name: self._sharded.whole(p) for name, p in self._model.named_parameters()}
        return state

    def save(self, folder: Path) -> None:
        own: dict[str, Any] = {"buffers": dict(self._model.named_buffers())}
        if self._sharded is not None:
            own |= {"partitions": list(self._sharded.partitions), "optimizer": self._sharded.states}
        save_state(folder / f"engine-{self._ranks.rank:05d}.safetensors", own)
        if self._ranks.is_main:  # equal on every rank
            whole: dict[str, Any] = {"zero_stage": self._options.zero_stage, "loss_scale": self._loss_scale_state()}
            if self._sharded is None:
                parameters = list(self._model.parameters())
                whole |= {"weights": parameters, "optimizer": [self._base.state[p] for p in parameters]}
            save_state(folder / "engine.safetensors", whole)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        own = load_state(folder / f"engine-{self._ranks.rank:05d}.safetensors")
        whole = load_state(folder / "engine.safetensors")
        assert whole["zero_stage"] == self._options.zero_stage, f"saved by ZeRO {whole['zero_stage']}"
        copy_into(dict(self._model.named_buffers()), own["buffers"])
        if self._sharded is not None:
            copy_into(dict(enumerate(self._sharded.partitions)), dict(enumerate(own["partitions"])))
            for live, saved in zip(self._sharded.states, own["optimizer"], strict=True):
                copy_into(live, saved)
            self._sharded.publish()
        else:
            parameters = list(self._model.parameters())
            copy_into(dict(enumerate(parameters)), dict(enumerate(whole["weights"])))
            for parameter, saved in zip(parameters, whole["optimizer"], strict=True):
                copy_into(self._base.state[parameter], saved)
        if self._loss_scaler is not None:
            vars(self._loss_scaler).update(whole["loss_scale"])
            if self._sharded is not None:
                self._engine.optimizer.override_loss_scale(self._loss_scaler.cur_scale)

    def _loss_scale_state(self) -> dict[str, Any]:
        if self._loss_scaler is None:
            return {}
        return {name: getattr(self._loss_scaler, name) for name in ("cur_scale", "cur_iter", "last_overflow_iter")}

    def close(self) -> None:
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

        self._engine.destroy()
        # stage 3 would keep the root module there, and with it all its shards, until the process ends
        FWD_MODULE_STACK[:] = [module for module in FWD_MODULE_STACK if module is not self._model]
        del self._engine, self._base, self._sharded, self._model


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a DeepSpeed configuration that are set; "auto" leaves an entry to us."""
    return {
        name: _said(value) if isinstance(value, dict) else value for name, value in options.items() if value != "auto"
    }


def _import_deepspeed(ranks: Ranks, timeout: timedelta) -> Any:
    """Import DeepSpeed, without its log output, onto our device and into our process group."""
    os.environ["DS_ACCELERATOR"] = ranks.device.type
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))
    ranks.require_group()
    import deepspeed
    from deepspeed.runtime import torch_autocast
    from deepspeed.utils import groups

    if groups._WORLD_GROUP is None:  # else DeepSpeed makes its own, with torch's timeout
        groups._WORLD_GROUP = torch.distributed.new_group(timeout=timeout)
    logger = logging.getLogger("DeepSpeed")
    logger.handlers.clear()  # DeepSpeed logs to stdout, from every rank
    logger.propagate = True
    logger.setLevel(logging.ERROR)
    # else DeepSpeed compiles, for minutes, a C++ operator that only inference on CPUs uses
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed keeps the precision of an earlier engine, even if the next one has none
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    return deepspeed
