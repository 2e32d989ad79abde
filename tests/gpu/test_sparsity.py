"""Masks, selection and the masked step on a CUDA device: the same as on the CPU, and without waiting for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.scores import magnitude
from elth_dist.sparsity.selection import exact_count, prune, select
from elth_dist.training.masked import MaskedAdamW, MaskedSGD

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = {"stem": (64, 3, 7, 7), "conv": (128, 64, 3, 3), "shortcut": (128, 64, 1, 1), "fc": (1000, 512)}


#: (ours, torch's, options)
OPTIMIZERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sgd": (MaskedSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}),
    "adamw": (MaskedAdamW, torch.optim.AdamW, {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}),
}


@contextmanager
def no_host_sync() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def weights(distinct: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return values if distinct is None else {name: (value * distinct).round() for name, value in values.items()}


def on_gpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the device, convolutions in channels_last."""
    formats = {4: torch.channels_last, 2: torch.contiguous_format}
    return {name: tensor.cuda().to(memory_format=formats[tensor.ndim]) for name, tensor in tensors.items()}


@pytest.mark.parametrize("distinct", [None, 3])
def test_selection_and_masks_are_those_of_the_cpu(distinct: int | None) -> None:
    here, there = weights(distinct), on_gpu(weights(distinct))
    masks, gpu_masks = Masks.dense(SHAPES), Masks.dense(SHAPES).to("cuda")
    for _ in range(3):
        k = exact_count(0.2, masks.kept)
        scores, gpu_scores = magnitude(here), magnitude(there)
        gpu_threshold = select(list(gpu_scores.values()), list(gpu_masks.values()), k)
        assert gpu_threshold == select(list(scores.values()), list(masks.values()), k)
        masks, gpu_masks = prune(masks, scores, k), prune(gpu_masks, gpu_scores, k)
        assert gpu_masks["conv"].is_cuda
        assert masks == gpu_masks
        assert masks.hashes() == gpu_masks.hashes()
        assert masks.counts == gpu_masks.counts
        packed = gpu_masks.packed()
        assert all(torch.equal(bits.cpu(), masks.packed()[name]) for name, bits in packed.items())
        assert Masks.unpack(packed, SHAPES) == masks
    gpu_masks.apply_(there)
    assert gpu_masks.check_zero(there) == []


def test_signed_scores_with_everything_special_are_selected_as_on_the_cpu() -> None:
    special = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.0, -1.0, 3.4e38, float("inf"), -float("inf")]
    scores = torch.tensor(special).repeat(100)
    masks = Masks({"w": torch.arange(1000) % 7 != 0})
    for k in (0, 1, 333, masks.kept):
        assert prune(masks.to("cuda"), {"w": scores.cuda()}, k) == prune(masks, {"w": scores}, k)
    scores[8] = float("nan")
    with pytest.raises(ValueError, match="'w'"):
        prune(masks.to("cuda"), {"w": scores.cuda()}, 1)


def test_selection_works_where_only_deterministic_kernels_are_allowed() -> None:
    there = magnitude(on_gpu(weights()))
    masks = Masks.dense(SHAPES).to("cuda")
    expected = prune(masks, there, 1000)
    torch.use_deterministic_algorithms(True)
    try:
        assert prune(masks, there, 1000) == expected
    finally:
        torch.use_deterministic_algorithms(False)


def trained(name: str, remask: bool) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights, slots and counters after ten steps: of ours, or of torch's, masked again after each step."""
    kind, plain, recipe = OPTIMIZERS[name]
    parameters = [nn.Parameter(tensor) for tensor in on_gpu(weights()).values()]
    generator = torch.Generator("cuda").manual_seed(1)
    masks = [torch.rand(p.shape, generator=generator, device="cuda") < 0.3 for p in parameters]
    by_parameter = dict(zip(parameters, masks, strict=True))
    optimizer = plain(parameters, **recipe, fused=True) if remask else kind(parameters, **recipe, masks=by_parameter)

    def mask() -> None:
        with torch.no_grad():
            for parameter, kept in zip(parameters, masks, strict=True):
                parameter.masked_fill_(~kept, 0)
                for slot in kind.slots:
                    if slot in optimizer.state[parameter]:
                        optimizer.state[parameter][slot].masked_fill_(~kept, 0)

    if remask:
        mask()
    for _ in range(10):
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter).normal_(generator=generator)
        if remask:
            optimizer.step()
            mask()
        else:
            with no_host_sync():
                optimizer.step()
    slots = [optimizer.state[parameter][slot] for slot in kind.slots for parameter in parameters]
    counters = [optimizer.state[parameter][counter] for counter in kind.counters for parameter in parameters]
    if not remask:
        for tensor, kept in zip([*parameters, *slots], masks * (1 + len(kind.slots)), strict=True):
            assert tensor[~kept].count_nonzero() == 0
        assert optimizer.not_zero() == ([], {})
    return [parameter.detach() for parameter in parameters], slots, counters


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_masked_step_equals_re_masking_to_the_bit_and_never_waits(name: str) -> None:
    for ours, theirs in zip(trained(name, remask=False), trained(name, remask=True), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_of_adamw_with_non_finite_gradients_changes_nothing_and_never_waits() -> None:
    parameter = nn.Parameter(on_gpu(weights())["conv"])
    optimizer = MaskedAdamW([parameter], lr=0.1, masks={parameter: parameter.detach() > 0})
    before = parameter.detach().clone()
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    for number, value in enumerate((float("inf"), 1.0)):
        factor = torch.full((), value, device="cuda")
        with no_host_sync():
            optimizer.zero_grad()
            scaler.scale((parameter * factor).sum()).backward()
            scaler.step(optimizer)
        scaler.update()
        state = optimizer.state[parameter]
        assert torch.equal(parameter, before) == (number == 0)
        assert state["step"].item() == number
        for slot in optimizer.slots:
            assert state[slot].count_nonzero() == number * (before > 0).count_nonzero()


def test_a_step_of_non_finite_gradients_changes_nothing_and_never_waits() -> None:
    parameter = nn.Parameter(on_gpu(weights())["conv"])
    optimizer = MaskedSGD([parameter], lr=0.1, momentum=0.9, masks={parameter: parameter.detach() > 0})
    before = parameter.detach().clone()
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    for found in (True, False):
        factor = torch.full((), float("inf") if found else 1.0, device="cuda")
        with no_host_sync():
            optimizer.zero_grad()
            scaler.scale((parameter * factor).sum()).backward()
            scaler.step(optimizer)
        scaler.update()
        momentum = optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(parameter, before) == found
        assert (momentum.count_nonzero() == 0) == found
    assert torch.equal(momentum, (before > 0).float())  # the gradient of the sum, unscaled, where weights are kept
