"""Options of training: length, batch, learning rate, precision."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from elth_dist import registry
from elth_dist.options import NO_EFFECT, Options, Step
from elth_dist.registry import OneOf
from elth_dist.training.optimizers import Optimizer
from elth_dist.training.optimizers.sgd import Sgd

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class TrainOptions(Options):
    """One training from step 0 to `epochs`; a ticket's training enters it at the rewind step.

    Defaults are the paper's CIFAR-10 ResNet recipe (E-LTH, section 4).
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(default=160, description="length of a training, epochs")
    global_batch: Annotated[int, Field(ge=1, le=1 << 20)] = Field(
        default=128, description="samples per optimizer step, over all ranks and micro-batches"
    )
    accumulate: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=1, description="micro-batches per optimizer step on each rank"
    )
    lr: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=0.1, description="highest learning rate, after the warm-up"
    )
    lr_batch: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="global batch that `lr` is meant for, samples: scales lr by global_batch / lr_batch; null: as is",
    )
    schedule: Literal["step", "cosine"] = Field(
        default="step",
        description="decay of the learning rate: step: by `gamma` at `milestones`; cosine: to 0 at the end",
    )
    milestones: tuple[Step, ...] = Field(
        default=(Step.parse("80ep"), Step.parse("120ep")),
        description="steps at which the schedule `step` multiplies the learning rate by `gamma`",
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="factor of the learning rate at each milestone"
    )
    warmup: Step = Field(default=Step.parse(0), description="step up to which the learning rate rises linearly from 0")
    optimizer: Annotated[Optimizer, OneOf("optimizer", lambda: registry.optimizers)] = Field(
        default=Sgd(), description="optimizer: a name, or a name with options"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="momentum of sgd; 0: none")
    nesterov: bool = Field(default=False, description="Nesterov's momentum in sgd")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1e-4,
        description="sgd: factor of the weights that is added to their gradients (L2); adamw: each step shrinks "
        "weights by lr times it; 0: none",
    )
    decay: Literal["all", "weights"] = Field(
        default="all",
        description="what weight decay acts on: all: every parameter (the paper); weights: parameters of two or more "
        "dimensions (no biases, no parameters of BatchNorm and LayerNorm)",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="probability that a target spreads evenly over all classes; 0: none"
    )
    precision: Precision = Field(default="fp32", description="number format of forward and backward (torch.amp)")
    bn: Literal["running", "reestimated"] = Field(
        default="running",
        description="BatchNorm statistics behind the accuracy in tables and figures: running: those of the training; "
        "reestimated: measured again at its end. Both accuracies are stored",
        json_schema_extra=NO_EFFECT,
    )
    bn_batches: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=16, description="global batches of training data that statistics are re-estimated from"
    )
    sync_bn: bool = Field(
        default=False, description="compute BatchNorm statistics over all ranks' samples at every step"
    )
    deterministic: bool = Field(
        default=False, description="bit-reproducible kernels on GPUs (slower); runs on CPUs are always reproducible"
    )
    compile: bool = Field(default=False, description="compile the network with torch.compile")
    eval_every: Annotated[int, Field(ge=1)] = Field(default=1, description="epochs from one evaluation to the next")
    eval_batch: Annotated[int, Field(ge=1, le=1 << 16)] = Field(
        default=250, description="validation samples per batch and rank", json_schema_extra=NO_EFFECT
    )
    log_every: Annotated[int, Field(ge=1)] = Field(
        default=50,
        description="optimizer steps from one reading of the metrics to the next",
        json_schema_extra=NO_EFFECT,
    )
    checkpoint_every: Step = Field(
        default=Step.parse("1ep"),
        description="interval of checkpoints: 1ep (epochs), 500it (optimizer steps); 0: none",
        json_schema_extra=NO_EFFECT,
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        self.optimizer.check(self)
        if self.global_batch % self.accumulate:
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of accumulate {self.accumulate}")
        return self

    def stretched(self, factor: int) -> "TrainOptions":
        """Return the options of a training `factor` times as long: every point of the schedule is multiplied."""
        points = {
            "epochs": self.epochs * factor,
            "milestones": tuple(point.times(factor) for point in self.milestones),
            "warmup": self.warmup.times(factor),
        }
        return self.model_copy(update=points)

    @property
    def peak_lr(self) -> float:
        """The highest learning rate, after linear scaling with the global batch."""
        return self.lr if self.lr_batch is None else self.lr * self.global_batch / self.lr_batch
