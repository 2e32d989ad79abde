"""A small training with a mask update, step by step as the loop runs it, on any number of ranks."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from elth_dist.engines.create import create_engine
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.updates import AnyMaskUpdate, MaskUpdate, Updater
from elth_dist.training.masked import Masked, MaskedSGD

STEPS = 12
DENSITY = 0.3
BATCH, CLASSES, SIZE = 8, 5, 6
RECIPE: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}

#: Each update with several changes in STEPS steps, none of them at the last one.
UPDATES: dict[str, dict[str, Any]] = {
    "rigl": {"name": "rigl", "delta_t": 4, "t_end": "10it"},
    "set": {"name": "set", "delta_t": 4, "t_end": "10it"},
    "snfs": {"name": "snfs", "delta_t": 4, "t_end": "10it", "distribution": "erk"},
    "gradual": {"name": "gradual", "every": 3, "begin": "2it", "end": "10it"},
    "dpf": {"name": "dpf", "every": 3, "end": "8it"},
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Without BatchNorm: its gradient is a plain mean over samples."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )
    return model.to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The global batch of a step: [8, 3, 6, 6] and labels."""
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def options_of(name: str, **more: Any) -> MaskUpdate:
    options: MaskUpdate = TypeAdapter[Any](AnyMaskUpdate).validate_python({**UPDATES[name], **more})
    return options


class Snapshot(NamedTuple):
    """What a step left."""

    masks: Masks
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]


class Training:
    """`update` on `network()`, under the DDP engine unless told otherwise."""

    def __init__(
        self,
        ranks: Ranks,
        name: str,
        *,
        accumulate: int = 1,
        dtype: torch.dtype = torch.float32,
        precision: str = "fp32",
        poisoned: int | None = None,
        agree: Callable[[Masks], None] | None = None,
        engine: EngineOptions | None = None,
        kept: int | None = None,
        optimizer: Callable[[nn.Module], Masked] = lambda model: MaskedSGD(model.parameters(), **RECIPE),
        **more: Any,
    ) -> None:
        torch.set_num_threads(1)
        self.ranks, self.accumulate, self.dtype, self.poisoned = ranks, accumulate, dtype, poisoned
        self.engine = create_engine(engine or EngineOptions(), ranks, Numerics(precision))
        shape = (BATCH // (ranks.world_size * accumulate), 3, SIZE, SIZE)
        dense = Masks.dense(network(dtype))
        self.engine.prepare(network(dtype), optimizer, shape)
        self.weights = prunable_weights(self.engine.model)
        self.masked = self.engine.masked(self.weights)
        self.update: Updater = options_of(name, **more).create(
            dense,
            density=DENSITY if kept is None else kept / dense.total,
            kept=kept,
            seed=5,
            total_steps=STEPS,
            steps_per_epoch=STEPS // 2,
            agree=agree or (lambda masks: ranks.require_equal(name, masks.hashes())),
        )

    def begin(self) -> "Training":
        self.update.begin(self.masked)
        return self

    def gradients(self, step: int) -> Tensor:
        """A step up to its finished gradients; returns whether they are finite."""
        images, labels = (tensor.to(self.ranks.device) for tensor in batch(step, self.dtype))
        if step == self.poisoned:
            images[0] = math.inf  # a sample of rank 0's
        share = BATCH // self.ranks.world_size
        own = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        parts = zip(images[own].chunk(self.accumulate), labels[own].chunk(self.accumulate), strict=True)
        with self.update.computing():
            for number, (x, y) in enumerate(parts):
                with self.engine.micro_step(last=number == self.accumulate - 1):
                    loss = F.cross_entropy(self.engine.forward(x.to(memory_format=torch.channels_last)), y)
                    self.engine.backward(loss / self.accumulate)
        return self.engine.finish_gradients()

    def apply(self, step: int, finite: Tensor) -> bool:
        """The rest of the step; returns whether the update took the optimizer's place."""
        skip = self.update.before_step(step, finite)
        if skip:
            self.engine.optimizer.skip_next()
        self.engine.step()
        self.update.after_step(step, finite)
        return skip

    def step(self, step: int) -> bool:
        return self.apply(step, self.gradients(step))

    def evaluate(self) -> Tensor:
        """As much of an evaluation as an update can notice; the logits of a step's images."""
        with self.update.computing(), torch.no_grad():
            self.update.check()
            self.engine.model.eval()
            logits = self.engine.forward(
                batch(0, self.dtype)[0].to(self.ranks.device, memory_format=torch.channels_last)
            )
            self.engine.model.train()
        return logits

    def snapshot(self) -> Snapshot:
        """Where every rank holds all weights."""
        state = self.engine.optimizer.state
        return Snapshot(
            self.update.masks,
            {name: weight.detach().clone() for name, weight in self.weights.items()},
            {name: state[weight]["momentum_buffer"].clone() for name, weight in self.weights.items()},
        )
