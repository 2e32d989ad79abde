"""Options of the engine: which one executes a step, and on which device."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from elth_dist.errors import UserError
from elth_dist.options import NO_EFFECT, Options

#: Sections that a DeepSpeed configuration may hold in addition to what our options set: ZeRO and its reports.
_TUNABLE = (
    "zero_optimization",
    "torch_autocast",
    "communication_data_type",
    "comms_logger",
    "flops_profiler",
    "wall_clock_breakdown",
)

#: Options of ZeRO that it may hold: sizes and schedules. Others would change the layout of the shards, skip the check
#: for non-finite gradients, or change the result.
_TUNABLE_ZERO = (
    "stage",
    "offload_optimizer",
    "offload_param",
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "allgather_partitions",
    "allgather_bucket_size",
    "overlap_comm",
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_module_granularity_threshold",
    "log_trace_cache_warnings",
)


def _read_json(value: Any) -> Any:
    """Read the file that the option names: its content determines the run and is written to the run's config.yaml."""
    if not isinstance(value, str):
        return value
    try:
        content = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text())
    except FileNotFoundError:
        raise ValueError(f"no file {value}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{value}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{value}: holds a {type(content).__name__}, not an object")
    return content


class EngineOptions(Options):
    """Options of the engine, which decides how a step is executed, not what is computed."""

    name: Literal["ddp", "deepspeed"] = Field(
        default="ddp",
        description="ddp: torch's DistributedDataParallel, or a single process; deepspeed: ZeRO, for large networks",
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(
        default=2,
        description="what deepspeed shards over ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too",
    )
    deepspeed_config: Annotated[dict[str, Any] | str | None, BeforeValidator(_read_json)] = Field(
        default=None,
        description="a DeepSpeed JSON file, or its content: how ZeRO works; it must not contradict the other options",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: one GPU per rank if there are any, else the CPU", json_schema_extra=NO_EFFECT
    )
    bucket_mib: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=25.0, description="size of the buckets in which gradients are reduced, MiB", json_schema_extra=NO_EFFECT
    )
    timeout_minutes: Annotated[float, Field(gt=0, le=1440)] = Field(
        default=30.0,
        description="time that a rank may wait for another, or make no progress, before the run stops, minutes",
        json_schema_extra=NO_EFFECT,
    )

    @model_validator(mode="after")
    def _only_with_deepspeed(self) -> Self:
        if self.name != "deepspeed":
            for option in ("zero_stage", "deepspeed_config"):
                if getattr(self, option) != type(self).model_fields[option].default:
                    raise ValueError(f"{option} is for engine.name deepspeed, but engine.name is {self.name}")
        return self

    @property
    def deepspeed_options(self) -> dict[str, Any]:
        """The content of `deepspeed_config`; empty if there is none."""
        return self.deepspeed_config if isinstance(self.deepspeed_config, dict) else {}

    def check(
        self, *, global_batch: int, accumulate: int, world_size: int, precision: str, compile_model: bool
    ) -> None:
        """Refuse invalid options before any process waits for another.

        Raises:
            UserError: DeepSpeed is not installed; the network cannot be compiled; `deepspeed_config` contradicts our
                options (names both) or sets an option that it may not set.
        """
        if self.name != "deepspeed":
            return
        if importlib.util.find_spec("deepspeed") is None:
            raise UserError("engine.name: deepspeed is not installed here (pip install deepspeed); valid here: ddp")
        known: dict[str, tuple[Any, str]] = {
            "train_batch_size": (global_batch, "train.global_batch"),
            "train_micro_batch_size_per_gpu": (
                global_batch // (world_size * accumulate),
                "train.global_batch by ranks and train.accumulate",
            ),
            "gradient_accumulation_steps": (accumulate, "train.accumulate"),
            "zero_optimization.stage": (self.zero_stage, "engine.zero_stage"),
            "torch_autocast.enabled": (precision in ("bf16", "fp16"), f"train.precision {precision}"),
            "torch_autocast.dtype": ({"bf16": "bfloat16", "fp16": "float16"}.get(precision), "train.precision"),
            "fp16.enabled": (False, "train.precision, which uses torch_autocast"),
            "bf16.enabled": (False, "train.precision, which uses torch_autocast"),
            "gradient_clipping": (0, "the training loop, which does not clip"),
            "zero_allow_untested_optimizer": (True, "the masked SGD"),
            "zero_optimization.offload_optimizer.device": ("none", "the masked SGD, which runs where the model does"),
            "zero_optimization.offload_param.device": ("none", "the masked SGD, which runs where the model does"),
        }
        if compile_model and self.zero_stage == 3:
            raise UserError(
                "train.compile: not with engine.zero_stage 3, which gathers weights layer by layer; "
                "valid here: false, or engine.zero_stage 0, 1 or 2"
            )
        for name in ("zero_optimization", "torch_autocast"):
            if not isinstance(section := self.deepspeed_options.get(name, {}), dict):
                raise UserError(f"engine.deepspeed_config: {name} is {section!r}, not an object")
        if unknown := sorted(self.deepspeed_options.get("zero_optimization", {}).keys() - set(_TUNABLE_ZERO)):
            raise UserError(
                f"engine.deepspeed_config: zero_optimization.{unknown[0]} cannot be set there; valid are "
                f"{', '.join(_TUNABLE_ZERO)}"
            )
        for name, value in _flat(self.deepspeed_options):
            if value == "auto":
                continue
            expected, ours = known.get(name, (value, ""))
            if value != expected:
                raise UserError(f"engine.deepspeed_config: {name} is {value!r}, but {expected!r} by {ours}")
            if name not in known and name.split(".")[0] not in _TUNABLE:
                raise UserError(
                    f"engine.deepspeed_config: {name} cannot be set there; apart from our own options, it may hold "
                    f"{', '.join(_TUNABLE)}"
                )


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested objects."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
