"""Create the engine that the options name."""

import torch

from elth_dist.engines.ddp import DdpEngine
from elth_dist.engines.deepspeed import DeepSpeedEngine
from elth_dist.engines.numerics import AUTOCAST, Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import Engine
from elth_dist.runtime.ranks import Ranks

_FP32 = Numerics()


def create_engine(options: EngineOptions, ranks: Ranks, numerics: Numerics = _FP32) -> Engine:
    """Create the engine of `engine.name`. `numerics` must be applied() for as long as the engine is used."""
    kind = DeepSpeedEngine if options.name == "deepspeed" else DdpEngine
    return kind(ranks, options, numerics)


def image_dtype(precision: str) -> torch.dtype:
    """Return the type in which a loader hands over images: the type that the network computes in."""
    return AUTOCAST[precision] or torch.float32
