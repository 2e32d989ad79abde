"""The one place that knows which engines there are."""

import torch

from elth_dist.engines.ddp import DdpEngine
from elth_dist.engines.deepspeed import DeepSpeedEngine
from elth_dist.engines.numerics import AUTOCAST, Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import Engine
from elth_dist.runtime.ranks import Ranks

_FP32 = Numerics()


def create_engine(options: EngineOptions, ranks: Ranks, numerics: Numerics = _FP32) -> Engine:
    """The engine that `engine.name` asks for. It expects `numerics` to be applied() for as long as it is used."""
    kind = DeepSpeedEngine if options.name == "deepspeed" else DdpEngine
    return kind(ranks, options, numerics)


def image_dtype(precision: str) -> torch.dtype:
    """What images are handed over in: the type that the network computes in."""
    return AUTOCAST[precision] or torch.float32
