"""The one training loop. Every job that trains runs through fit()."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elth_dist.accounting.layers import network
from elth_dist.accounting.meter import Flops, FlopsMeter
from elth_dist.engines.batchnorm import has_batchnorm
from elth_dist.engines.create import create_engine
from elth_dist.engines.numerics import Numerics
from elth_dist.engines.options import EngineOptions
from elth_dist.engines.protocol import TrainingOptimizer
from elth_dist.errors import UserError
from elth_dist.models.build import architecture_of
from elth_dist.options import Step
from elth_dist.runtime.checkpoints import Checkpoints
from elth_dist.runtime.states import load_state, save_state
from elth_dist.sparsity.masks import prunable_weights
from elth_dist.sparsity.updates.updater import Updater
from elth_dist.training.clock import Clock
from elth_dist.training.context import Context
from elth_dist.training.evaluation import Evaluation, validate, validate_reestimated
from elth_dist.training.meters import Meters
from elth_dist.training.options import TrainOptions
from elth_dist.training.repulsion import Repulsion
from elth_dist.training.schedule import learning_rate

#: Top-1 that running and re-estimated statistics of BatchNorm may differ by without a warning.
_NOTABLE = 0.01
#: A validation loss, in losses of guessing, beyond which a training counts as diverged.
_HOPELESS = 4.0


@dataclass(frozen=True)
class Task:
    """One training: a network with its masks, from one step of the schedule to another."""

    name: str  # of the job, as in the run directory
    title: str  # for people
    model: nn.Module  # fp32, weights at `start`; equal on every rank
    update: Updater  # holds the masks of the prunable weights (dense for a dense network), and changes them
    seed: int  # of the data order and augmentation
    start: int = 0  # optimizer step at which this training enters the schedule
    until: Step | None = None  # where it leaves the schedule; None: at the end
    stretched: int = 1  # length of the schedule, in schedules of one dense training
    penalty: Repulsion | None = None  # a term of the loss


class Fitted(NamedTuple):
    """The result of a training."""

    weights: dict[str, Tensor]  # whole fp32 state_dict on the CPU, BatchNorm statistics averaged over ranks
    evaluation: Evaluation  # at the last step
    reestimated: Evaluation | None  # the same, with BatchNorm's statistics re-estimated; None before the schedule's end
    start: int
    end: int  # steps of the schedule between which it ran
    samples: int  # training samples that it saw
    flops: Flops  # of this training
    dense_flops: int  # of one dense training of the same network, from step 0 to the end (not stretched)
    diverged: bool  # whether the network is far worse than guessing


class Stopped(Exception):  # noqa: N818 - not an error: a signal asked to stop
    """A signal stopped the training after its state was saved: the same command continues from here."""

    def __init__(self, job: str, step: int) -> None:
        super().__init__(f"{job} stopped after step {step}")
        self.job = job
        self.step = step


def fit(
    task: Task, options: TrainOptions, engine_options: EngineOptions, context: Context, checkpoints: Checkpoints
) -> Fitted:
    """Train `task` to its end, or until a signal stops all ranks.

    Continues from the newest of `checkpoints`, if there is one, bit for bit as if it had never been interrupted.

    Raises:
        Stopped: after a checkpoint, if any rank was asked to stop.
        UserError: training diverged, or the rewind step lies beyond the end.
        DisagreementError: ranks hold different masks or weights.
    """
    numerics = Numerics(options.precision, options.sync_bn, options.compile, options.deterministic)
    with numerics.applied(), _Training(task, options, engine_options, numerics, context, checkpoints) as training:
        training.resume()
        while training.step < training.end:
            training.train_one_step()
            stopping = context.stop.poll()
            context.watchdog.beat()
            if training.due(options.log_every):
                training.log()
            if training.due(options.eval_every * training.per_epoch):
                training.evaluate()
            if stopping or training.checkpoint_due():
                training.save()
            if stopping:
                raise Stopped(task.name, training.step)
        return training.finish()


class _Training:
    """A training between two steps, and its operations there."""

    def __init__(
        self,
        task: Task,
        options: TrainOptions,
        engine_options: EngineOptions,
        numerics: Numerics,
        context: Context,
        checkpoints: Checkpoints,
    ) -> None:
        self._task, self._options, self._context, self._checkpoints = task, options, context, checkpoints
        ranks, dataset = context.ranks, context.dataset
        self._loader = dataset.train_loader(
            seed=task.seed, global_batch=options.global_batch, accumulate=options.accumulate
        )
        self._validation = dataset.val_loader(batch=options.eval_batch)
        self.per_epoch = self._loader.steps_per_epoch
        self.total = options.epochs * self.per_epoch
        self.end = self.total if task.until is None else task.until.iterations(self.per_epoch)
        if not task.start < self.end <= self.total:
            raise UserError(
                f"train.epochs: {options.epochs} makes {self.total} steps ({self.per_epoch} per epoch), but "
                f"{task.name} would train from step {task.start} to {self.end}: the rewind step must lie before the end"
            )
        torch.manual_seed(task.seed + ranks.rank)
        self._engine = create_engine(engine_options, ranks, numerics)
        size = dataset.image_size
        self._engine.prepare(
            task.model,
            lambda model: _optimizer(model, options),
            (options.global_batch // (ranks.world_size * options.accumulate), 3, size, size),
        )
        self._update = task.update
        counted = network(architecture_of(task.model).name, size, dataset.num_classes)
        self._flops = FlopsMeter(counted, options.global_batch)
        self._dense_flops = self._flops.dense_training(self.total // task.stretched)
        self._meters = Meters(ranks)
        self._clock = Clock()
        self._evaluation: Evaluation | None = None
        self._learning_rate = 0.0
        self._weights: dict[str, nn.Parameter] = {}  # prunable ones, once resume() has placed masks on them
        self.step = task.start

    def __enter__(self) -> "_Training":
        return self

    def __exit__(self, *exception: object) -> None:
        self._loader.close()
        self._validation.close()
        self._engine.close()

    def train_one_step(self) -> None:
        """Take one optimizer step on one global batch, without waiting for the device (except in DeepSpeed's steps)."""
        options, engine = self._options, self._engine
        self._learning_rate = learning_rate(
            self.step,
            base=options.peak_lr,
            total_steps=self.total,
            warmup_steps=options.warmup.iterations(self.per_epoch),
            kind=options.schedule,
            milestones=[point.iterations(self.per_epoch) for point in options.milestones],
            gamma=options.gamma,
        )
        for group in engine.optimizer.param_groups:
            group["lr"] = self._learning_rate
        masks = self._update.masks
        with self._update.computing():
            for micro in range(options.accumulate):
                with self._clock.waiting_for_data():
                    batch = next(self._loader)
                with engine.micro_step(last=micro == options.accumulate - 1):
                    logits = engine.forward(batch.images)
                    loss = F.cross_entropy(logits, batch.labels, label_smoothing=options.label_smoothing)
                    whole = loss if self._task.penalty is None else loss + self._task.penalty(self._weights)
                    engine.backward(whole / options.accumulate)
                self._meters.add_batch(loss.detach(), logits.detach(), batch.labels)
        finite = engine.finish_gradients()
        if self._update.before_step(self.step, finite):
            engine.optimizer.skip_next()
        self._flops.count_step(masks, self._update.dense_gradient(self.step))
        outcome = engine.step()
        self._update.after_step(self.step, finite)
        self._meters.add_step(outcome)
        self.step += 1

    def due(self, every: int) -> bool:
        """Tell whether something that is due every `every` steps, and at the end, is due now."""
        return self.step % every == 0 or self.step == self.end

    def checkpoint_due(self) -> bool:
        """Tell whether a periodic checkpoint is due; never at the end, where the job's result follows."""
        every = self._options.checkpoint_every.iterations(self.per_epoch)
        return every > 0 and self.step % every == 0 and self.step < self.end

    def log(self) -> None:
        """Read the meters, which is the only regular wait for the device, and report them."""
        reading = self._meters.read()
        fp16 = self._options.precision == "fp16"
        if reading.skipped and (not fp16 or reading.skipped == reading.steps > 10):
            raise UserError(
                f"{self._task.name}: training diverged: the gradient was not finite at {reading.skipped} of the "
                f"{reading.steps} steps before step {self.step}; lower train.lr ({self._options.lr}) or lengthen "
                f"train.warmup ({self._options.warmup})"
            )
        seconds, waiting = self._clock.lap()
        values = {
            "train/loss": reading.loss,
            "train/top1": reading.top1,
            "train/top5": reading.top5,
            "train/lr": self._learning_rate,
            "train/grad_norm": reading.grad_norm,
            "train/skipped_steps": float(reading.skipped),
            "density/total": self._update.masks.density,
            "time/images_per_second": reading.steps * self._options.global_batch / seconds,
            "time/data_wait_fraction": waiting / seconds,
        }
        if self._context.ranks.device.type == "cuda":
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._report(values)

    def evaluate(self) -> None:
        """Measure on the validation set and report it."""
        with self._clock.paused(), self._update.computing():
            self._update.check()
            self._evaluation = validate(self._engine, self._validation, self._context.ranks)
        found = self._evaluation
        self._report({"val/loss": found.loss, "val/top1": found.top1, "val/top5": found.top5})

    def save(self) -> None:
        """Commit a checkpoint, from which training continues bit for bit."""
        self._update.check()
        ranks, rank = self._context.ranks, self._context.ranks.rank

        def write(folder: Path) -> None:
            self._engine.save(folder)
            own = {
                "step": self.step,
                "loader": self._loader.state_dict(),
                "meters": self._meters.state_dict(),
                "flops": self._flops.state_dict(self._update.masks),
                "evaluation": None if self._evaluation is None else list(self._evaluation),
                "rows": self._context.reporter.rows(),
                "rng_cpu": torch.get_rng_state(),
                "rng_cuda": torch.cuda.get_rng_state() if ranks.device.type == "cuda" else None,
            }
            save_state(folder / f"loop-{rank:05d}.safetensors", own)
            if ranks.is_main:  # equal on every rank
                save_state(folder / "update.safetensors", self._update.state_dict())

        with self._clock.paused():
            self._checkpoints.save(self.step, write)

    def resume(self) -> None:
        """Restore the newest checkpoint, if there is one; then check that all ranks start equally."""
        task, ranks, reporter = self._task, self._context.ranks, self._context.reporter
        folder = self._checkpoints.newest()
        rows = 0
        if folder is None:
            self._loader.seek(self.step)
        else:
            self._engine.load(folder)
            own = load_state(folder / f"loop-{ranks.rank:05d}.safetensors")
            self.step, rows = own["step"], own["rows"]
            self._loader.load_state_dict(own["loader"])
            self._meters.load_state_dict(own["meters"])
            self._flops.load_state_dict(own["flops"])
            self._update.load_state_dict(load_state(folder / "update.safetensors"))
            self._evaluation = None if own["evaluation"] is None else Evaluation(*own["evaluation"])
            torch.set_rng_state(own["rng_cpu"])
            if own["rng_cuda"] is not None:
                torch.cuda.set_rng_state(own["rng_cuda"])
        model, architecture = self._engine.model, architecture_of(self._engine.model)
        self._weights = prunable_weights(model, architecture.excluded)
        self._update.begin(self._engine.masked(self._weights))
        self._prove_agreement()
        reporter.start_job(
            task.name,
            title=task.title,
            start_step=self.step,
            total_steps=self.end,
            steps_per_epoch=self.per_epoch,
            keep_rows=rows,
        )
        self._clock.lap()

    def finish(self) -> Fitted:
        """Return the trained network, after a last check of masks and weights."""
        self._update.finish()
        self._prove_agreement()
        assert self._evaluation is not None, "a training ends with an evaluation"
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self._engine.weights().items()}
        reestimated = self._reestimate() if self.end == self.total else None
        samples = (self.end - self._task.start) * self._options.global_batch
        flops, dense = self._flops.read(self._update.masks), self._dense_flops
        diverged = self._diverged(reestimated or self._evaluation)
        return Fitted(
            weights, self._evaluation, reestimated, self._task.start, self.end, samples, flops, dense, diverged
        )

    def _diverged(self, found: Evaluation) -> bool:
        """Tell whether the validation loss is far above that of guessing; warn if it is."""
        guessing = math.log(self._context.dataset.num_classes)
        diverged = not found.loss <= _HOPELESS * guessing
        if diverged:
            self._context.reporter.warn(
                f"{self._task.name}: training diverged: the validation loss is {found.loss:.4g}, that of guessing "
                f"{guessing:.4g}; lower train.lr ({self._options.lr}) or lengthen train.warmup ({self._options.warmup})"
            )
        return diverged

    def _reestimate(self) -> Evaluation:
        """Measure with BatchNorm's statistics from the next batches of the training stream; warn if that matters."""
        running, ranks = self._evaluation, self._context.ranks
        assert running is not None
        found = running
        if has_batchnorm(self._engine.model):
            batches = self._options.bn_batches * self._options.accumulate
            images = (next(self._loader).images for _ in range(batches))
            found = validate_reestimated(self._engine, self._validation, images, ranks)
        self._write({"val/loss_reestimated": found.loss, "val/top1_reestimated": found.top1})
        if abs(found.top1 - running.top1) > _NOTABLE:
            self._context.reporter.warn(
                f"{self._task.name}: top-1 is {running.top1:.2%} with BatchNorm's running statistics and "
                f"{found.top1:.2%} with re-estimated ones; train.bn chooses which of them counts"
            )
        return found

    def _prove_agreement(self) -> None:
        self._context.ranks.require_equal(f"masks of {self._task.name}", self._update.masks.hashes())

    def _report(self, values: dict[str, float]) -> None:
        """Write scalars, and show them as progress."""
        self._write(values)
        self._context.reporter.progress(self.step, values)

    def _write(self, values: dict[str, float]) -> None:
        values |= self._flops.read(self._update.masks).scalars(self._dense_flops)
        self._context.reporter.scalars(self.step, self.step / self.per_epoch, values)


def _optimizer(model: nn.Module, options: TrainOptions) -> TrainingOptimizer:
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if options.decay == "weights":  # biases and the parameters of BatchNorm and LayerNorm are vectors
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return options.optimizer.create(groups, lr=options.peak_lr, weight_decay=options.weight_decay, train=options)
