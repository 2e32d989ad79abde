"""Which engine executes a step, and on what."""

from typing import Annotated, Any, Literal

from pydantic import Field

from elth_dist.options import NO_EFFECT, Options


class EngineOptions(Options):
    """Options of the engine. It decides how a step is executed, not what is computed."""

    name: Literal["ddp", "deepspeed"] = Field(
        default="ddp",
        description="ddp: torch's DistributedDataParallel, or one process alone; deepspeed: ZeRO, for large networks",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=2,
        description="what deepspeed shares out over ranks: 0 nothing, 1 optimizer state, 2 gradients too, "
        "3 weights too",
    )
    deepspeed_config: dict[str, Any] | None = Field(
        default=None, description="a DeepSpeed JSON file, or what would be in it: how ZeRO works, not what it computes"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU a rank where there is one", json_schema_extra=NO_EFFECT
    )
    bucket_mib: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=25.0, description="size of DDP's gradient buckets, MiB", json_schema_extra=NO_EFFECT
    )
    timeout_minutes: Annotated[float, Field(gt=0, le=1440)] = Field(
        default=30.0,
        description="how long a rank may wait for another, or make no progress, before the run stops",
        json_schema_extra=NO_EFFECT,
    )
