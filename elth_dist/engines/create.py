"""The one place that knows which engines there are."""

import torch

from elth_dist.engines.ddp import DdpEngine
from elth_dist.engines.deepspeed import DeepSpeedEngine
from elth_dist.engines.numerics import AUTOCAST
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import Engine
from elth_dist.runtime.ranks import Ranks


def create_engine(
    options: EngineOptions,
    ranks: Ranks,
    *,
    precision: str = "fp32",
    sync_bn: bool = False,
    compile_model: bool = False,
    deterministic: bool = False,
) -> Engine:
    """The engine that `engine.name` asks for; see `TrainOptions` for the others."""
    kind = DeepSpeedEngine if options.name == "deepspeed" else DdpEngine
    return kind(
        ranks,
        options,
        precision=precision,
        sync_bn=sync_bn,
        compile_model=compile_model,
        deterministic=deterministic,
    )


def image_dtype(precision: str) -> torch.dtype:
    """What images are handed over in: the type that the network computes in."""
    return AUTOCAST[precision] or torch.float32
