"""Gradients of the global batch for criteria, on the bare network before an engine wraps it.

Averages run over all samples of the global batches, so that the number of ranks and of micro-batches does not change
them. (With BatchNorm in training mode, each micro-batch has its own statistics, as in training.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elth_dist.data.protocol import Batch, Dataset
from elth_dist.runtime.ranks import Ranks


class GlobalBatches:
    """This rank's micro-batches of fixed global batches of the training set: each pass yields the same ones."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        global_batch: int,
        accumulate: int = 1,
        batches: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """UserError as in `Dataset.train_loader`.

        Args:
            dataset: augmented as in training.
            seed: of the samples' order and augmentation.
            global_batch: samples over all ranks and micro-batches.
            accumulate: micro-batches that a rank cuts its part into.
            batches: number of global batches per pass; None: an epoch.
            beat: called with each micro-batch (for a watchdog).
        """
        self._loader = dataset.train_loader(seed=seed, global_batch=global_batch, accumulate=accumulate)
        steps = self._loader.steps_per_epoch if batches is None else batches
        self.samples = steps * global_batch  # of a pass, over all ranks
        self.accumulate = accumulate  # micro-batches of this rank per global batch
        self._count = steps * accumulate
        self._beat = beat

    def __iter__(self) -> Iterator[Batch]:
        self._loader.seek(0)
        for _ in range(self._count):
            self._beat()
            yield next(self._loader)

    def close(self) -> None:
        """Release the loader's threads and memory."""
        self._loader.close()

    def __enter__(self) -> "GlobalBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Sample(NamedTuple):
    """A part of the training set, in batches of any sizes."""

    batches: list[Batch]  # this rank's, on the CPU
    total: int  # samples over all ranks


def balanced_sample(stream: GlobalBatches, ranks: Ranks, *, per_class: int, num_classes: int) -> Sample:
    """Take the first `per_class` samples of each class in a stream, equal for any number of ranks. Collective.

    As GraSP_fetch_data in the code of Wang et al. 2020. A class with fewer samples in the stream gives all it has.
    """
    missing = [per_class] * num_classes
    chosen: list[Batch] = []
    pending: list[Batch] = []
    for batch in stream:
        pending.append(batch)
        if len(pending) < stream.accumulate:
            continue
        own = torch.cat([part.labels for part in pending]).tolist()
        takes: list[list[bool]] = []  # of each rank's samples, which are taken
        for labels in ranks.gather_json(own):  # in the order of the global batch
            takes.append([])
            for label in labels:
                takes[-1].append(missing[label] > 0)
                missing[label] -= missing[label] > 0
        for part, taken in zip(
            pending, torch.split(torch.tensor(takes[ranks.rank]), len(pending[0].labels)), strict=True
        ):
            chosen.append(Batch(*(values.cpu()[taken] for values in part)))
        pending = []
        if not any(missing):
            break
    whole = Batch(*(torch.cat(parts) for parts in zip(*chosen, strict=True)))
    count = -(-len(whole.labels) // len(batch.labels))  # batches of this rank, none larger than the stream's
    cut = zip(*(values.chunk(count) for values in whole), strict=True) if count else ()
    return Sample([Batch(*parts) for parts in cut], per_class * num_classes - sum(missing))


def mean_gradients(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Iterable[Batch],
    ranks: Ranks,
    *,
    temperature: float = 1.0,
    samples: int | None = None,
) -> dict[str, Tensor]:
    """Compute g, the gradient of the mean cross-entropy over the global batches. Collective.

    Args:
        model: bare, on the ranks' device, with BatchNorm in the wanted mode; its parameters do not change.
        weights: the parameters to differentiate by.
        batches: this rank's micro-batches, equally many of one size on every rank.
        ranks: the ranks with the other micro-batches.
        temperature: divisor of the logits.
        samples: number of samples over all ranks, where micro-batches differ in size or number; None: they do not.

    Returns:
        By name, in the weights' dtype.
    """
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for batch in batches:
        loss = _loss(model, weights, batch, temperature, summed=samples is not None)
        _add(total, torch.autograd.grad(loss, list(weights.values()), materialize_grads=True))
        count += 1
    return _mean(total, count if samples is None else samples / ranks.world_size, ranks)


def hessian_gradient_products(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    batches: Iterable[Batch],
    ranks: Ranks,
    *,
    temperature: float = 1.0,
    samples: int | None = None,
) -> dict[str, Tensor]:
    """Compute H g, the Hessian of the loss of `mean_gradients` times its gradient. Collective; same arguments.

    `gradients` must be the *global* g: products with each rank's own gradient average to a different score.
    """
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    parameters = list(weights.values())
    count = 0
    for batch in batches:
        loss = _loss(model, weights, batch, temperature, summed=samples is not None)
        slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        along = torch.stack(
            [(slope * gradients[name]).sum() for name, slope in zip(weights, slopes, strict=True)]
        ).sum()
        _add(total, torch.autograd.grad(along, parameters, materialize_grads=True))
        count += 1
    return _mean(total, count if samples is None else samples / ranks.world_size, ranks)


@torch.no_grad()
def mean_input_squares(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch], ranks: Ranks
) -> dict[str, Tensor]:
    """Compute the sum of squares of each input channel over positions, averaged over samples. Collective.

    Args:
        model: as for `mean_gradients`.
        weights: of its Conv2d and Linear layers, by name.
        batches, ranks: as for `mean_gradients`.

    Returns:
        By name, float64, of a shape that multiplies the weight: [1, in] for a Linear, [out, in / groups, 1, 1] for a
        Conv2d, whose output channels each see the inputs of their group.
    """
    layers = {f"{name}.weight": module for name, module in model.named_modules() if f"{name}.weight" in weights}
    total: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def watch(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            images = inputs[0].detach().double()
            channels = 1 if isinstance(module, nn.Conv2d) else images.ndim - 1
            squares = images.square().sum(dim=[dim for dim in range(images.ndim) if dim != channels])
            total[name] = total.get(name, torch.zeros_like(squares)) + squares
            counts[name] += len(images)

        return add

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    try:
        dtype = next(iter(weights.values())).dtype
        for batch in batches:
            model(batch.images.to(dtype))
    finally:
        for hook in hooks:
            hook.remove()
    if unused := weights.keys() - total.keys():
        raise ValueError(f"{min(unused)} has no input: it is not the weight of a Conv2d or Linear layer in use")
    means = {name: squares / counts[name] for name, squares in total.items()}
    ranks.average_(means.values())
    return {name: _per_weight(mean, layers[name]) for name, mean in means.items()}


def _per_weight(channels: Tensor, layer: nn.Module) -> Tensor:
    """Reshape one number per input channel to broadcast over the layer's weight."""
    if not isinstance(layer, nn.Conv2d):
        return channels[None]
    by_group = channels.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, dim=0)
    return by_group[:, :, None, None]


def _loss(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batch: Batch, temperature: float, *, summed: bool
) -> Tensor:
    weight = next(iter(weights.values()))
    logits = model(batch.images.to(weight.device, weight.dtype))
    reduction = "sum" if summed else "mean"
    return F.cross_entropy(logits / temperature, batch.labels.to(weight.device), reduction=reduction)


@torch.no_grad()
def _add(total: Mapping[str, Tensor], parts: Iterable[Tensor]) -> None:
    for whole, part in zip(total.values(), parts, strict=True):
        whole += part


@torch.no_grad()
def _mean(total: dict[str, Tensor], count: float, ranks: Ranks) -> dict[str, Tensor]:
    for whole in total.values():
        whole /= count
    ranks.average_(total.values())
    return total
