import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elth_dist.training.masked import MaskedSGD

RECIPES = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True},
]


def network(dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.channels_last) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    return model.to(dtype=dtype, memory_format=memory_format)


def masks_of(model: nn.Module, seed: int = 1) -> dict[nn.Parameter, Tensor]:
    """For both convolutions; the linear layer is left out, as an excluded one."""
    generator = torch.Generator().manual_seed(seed)
    return {model[i].weight: torch.rand(model[i].weight.shape, generator=generator) < 0.4 for i in (0, 3)}


def backward(model: nn.Module, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    dtype = model[0].weight.dtype
    images = torch.randn(6, 3, 6, 6, generator=generator).to(dtype).to(memory_format=torch.channels_last)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(images), torch.arange(6) % 4)
    (loss * scale).backward()


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of the parameters, then of their momentum."""
    parameters = list(model.parameters())
    momentum = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
    return [tensor.detach().clone() for tensor in [*parameters, *momentum] if tensor is not None]


def bits(tensors: list[Tensor]) -> list[bytes]:
    return [tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_masked_training_equals_one_that_masks_weights_and_momentum_anew_each_step(
    recipe: dict[str, Any], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    model, peer = network(dtype, memory_format), network(dtype, memory_format)
    masks, peer_masks = masks_of(model), masks_of(peer)
    optimizer = MaskedSGD(model.parameters(), **recipe, masks=masks)
    reference = torch.optim.SGD(peer.parameters(), **recipe, fused=True)

    def mask_peer() -> None:
        with torch.no_grad():
            for parameter, mask in peer_masks.items():
                parameter.masked_fill_(~mask, 0)
                momentum = reference.state.get(parameter, {}).get("momentum_buffer")
                if momentum is not None:
                    momentum.masked_fill_(~mask, 0)

    mask_peer()
    for step in range(8):
        backward(model, step)
        optimizer.step()
        backward(peer, step)
        reference.step()
        mask_peer()
        for ours, theirs in zip(snapshot(model, optimizer), snapshot(peer, reference), strict=True):
            assert torch.equal(ours, theirs)
    for parameter, mask in masks.items():
        assert parameter[mask].count_nonzero() == mask.sum()
        assert parameter[~mask].count_nonzero() == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_masks_it_is_plain_sgd_to_the_bit(recipe: dict[str, Any]) -> None:
    model, peer = network(), network()
    optimizer, reference = MaskedSGD(model.parameters(), **recipe), torch.optim.SGD(peer.parameters(), **recipe)
    for step in range(5):
        backward(model, step)
        optimizer.step()
        backward(peer, step)
        reference.step()
    # torch's single-tensor kernel rounds in the same places, but may fuse a multiplication and an addition
    for ours, theirs in zip(model.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    fused_peer = network()
    fused = torch.optim.SGD(fused_peer.parameters(), **recipe, fused=True)
    for step in range(5):
        backward(fused_peer, step)
        fused.step()
    assert bits(list(model.parameters())) == bits(list(fused_peer.parameters()))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pruned_weights_and_momentum_are_exactly_zero_after_many_steps(memory_format: torch.memory_format) -> None:
    model = network(memory_format=memory_format)
    masks = masks_of(model)
    optimizer = MaskedSGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-3, nesterov=True, masks=masks)
    for step in range(60):
        backward(model, step)
        optimizer.step()
    for parameter, mask in masks.items():
        assert parameter[~mask].count_nonzero() == 0
        assert optimizer.state[parameter]["momentum_buffer"][~mask].count_nonzero() == 0
        assert parameter[mask].all()
        assert parameter.stride() == optimizer.state[parameter]["momentum_buffer"].stride()


def scaled(optimizer: MaskedSGD, scale: float, found_inf: float) -> None:
    """Step as torch.amp.GradScaler.step does, which sets these two and calls step()."""
    optimizer.grad_scale = torch.tensor(scale)
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_of_non_finite_gradients_changes_not_a_bit(steps_before: int) -> None:
    """Also the very first, when a plain fused SGD would leave uninitialised memory as momentum."""
    model = network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, masks=masks_of(model))
    for step in range(steps_before):
        backward(model, step)
        optimizer.step()
    before = bits(snapshot(model, optimizer))
    backward(model, 9)
    for parameter in model.parameters():
        parameter.grad[::2] = float("inf")
        parameter.grad[1::3] = float("nan")
    scaled(optimizer, 1024.0, found_inf=1.0)
    assert bits(snapshot(model, optimizer)) == before


def test_gradients_are_unscaled_within_the_step() -> None:
    model, peer = network(), network()
    recipe = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = MaskedSGD(model.parameters(), **recipe, masks=masks_of(model))
    reference = MaskedSGD(peer.parameters(), **recipe, masks=masks_of(peer))
    for step in range(3):
        backward(model, step, scale=2.0**10)  # a power of two: unscaling is exact
        scaled(optimizer, 2.0**10, found_inf=0.0)
        backward(peer, step)
        reference.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(peer, reference))


def test_torchs_grad_scaler_drives_it() -> None:
    model = network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, masks=masks_of(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = bits(snapshot(model, optimizer))
    scaler.scale(torch.ones(()))  # the scaler is set up by its first use
    backward(model, 0, scale=float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert bits(snapshot(model, optimizer)) == before
    assert scaler.get_scale() == 2.0**7
    backward(model, 0, scale=2.0**7)
    scaler.step(optimizer)
    scaler.update()
    assert bits(snapshot(model, optimizer)) != before
    assert scaler.get_scale() == 2.0**7


def test_skip_next_skips_exactly_one_update() -> None:
    model, peer = network(), network()
    recipe = {"lr": 0.1, "momentum": 0.9}
    optimizer = MaskedSGD(model.parameters(), **recipe, masks=masks_of(model))
    reference = MaskedSGD(peer.parameters(), **recipe, masks=masks_of(peer))
    for step in range(4):
        backward(model, step)
        if step == 1:
            optimizer.skip_next()
            gradients = bits([parameter.grad for parameter in model.parameters()])
            before = bits(snapshot(model, optimizer))
            optimizer.step()
            assert bits(snapshot(model, optimizer)) == before
            assert bits([parameter.grad for parameter in model.parameters()]) == gradients
            continue
        optimizer.step()
        backward(peer, step)
        reference.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(peer, reference))


def test_new_masks_in_mid_training_zero_what_goes_and_free_what_comes_back() -> None:
    model = network()
    old, new = masks_of(model, seed=1), masks_of(model, seed=2)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, masks=old)
    for step in range(4):
        backward(model, step)
        optimizer.step()
    before = {parameter: parameter.detach().clone() for parameter in new}
    optimizer.set_masks(new)
    for parameter, mask in new.items():
        momentum = optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(parameter, torch.where(mask, before[parameter], 0.0))
        assert parameter[~mask].count_nonzero() == momentum[~mask].count_nonzero() == 0
        assert momentum[mask & old[parameter]].all()
        assert momentum[mask & ~old[parameter]].count_nonzero() == 0
    backward(model, 9)
    optimizer.step()
    for parameter, mask in new.items():
        assert parameter[~mask].count_nonzero() == 0
        assert parameter[mask & ~old[parameter]].count_nonzero() > 0
    optimizer.set_masks({})
    backward(model, 10)
    optimizer.step()
    assert all(parameter[~mask].count_nonzero() > 0 for parameter, mask in new.items())


def test_parameters_without_a_mask_are_trained_as_ever() -> None:
    """Up to the first step, when what they see is still the same, with any masks on the others."""
    model, peer = network(), network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    reference = MaskedSGD(peer.parameters(), lr=0.1, momentum=0.9)
    for net in (model, peer):
        backward(net, 0)
    optimizer.set_masks(masks_of(model))
    optimizer.step()
    reference.step()
    for (name, ours), theirs in zip(model.named_parameters(), peer.parameters(), strict=True):
        assert torch.equal(ours, theirs) == (name not in ("0.weight", "3.weight"))


def test_a_parameter_without_gradient_stays_as_it_is() -> None:
    model = network()
    masks = masks_of(model)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, masks=masks)
    model[0].weight.requires_grad_(False)
    before = snapshot(model, optimizer)
    backward(model, 0)
    assert model[0].weight.grad is None
    optimizer.step()
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[3].weight, before[3])
    optimizer.zero_grad()
    optimizer.step()  # nothing has a gradient


def test_parameter_groups_have_their_own_options() -> None:
    model = network()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = MaskedSGD(groups, lr=0.1, momentum=0.9, masks=masks_of(model))
    before = snapshot(model, optimizer)[: len(list(model.parameters()))]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * (0.95 if parameter.ndim > 1 else 1.0))


def test_a_restored_optimizer_continues_to_the_bit_and_keeps_its_masks() -> None:
    recipe = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    model = network()
    optimizer = MaskedSGD(model.parameters(), **recipe, masks=masks_of(model))
    for step in range(3):
        backward(model, step)
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    assert all(slot.keys() == {"momentum_buffer"} for slot in state["state"].values())
    for slot in state["state"].values():
        slot["momentum_buffer"] = slot["momentum_buffer"].contiguous()  # a file knows no channels_last
    resumed = network()
    resumed.load_state_dict(model.state_dict())
    continued = MaskedSGD(resumed.parameters(), **recipe, masks=masks_of(resumed))
    continued.load_state_dict(state)
    for step in range(3, 6):
        backward(model, step)
        optimizer.step()
        backward(resumed, step)
        continued.step()
    assert bits(snapshot(resumed, continued)) == bits(snapshot(model, optimizer))
    assert all(parameter[~mask].count_nonzero() == 0 for parameter, mask in masks_of(resumed).items())


def test_gradients_of_other_strides_are_taken_by_their_indices() -> None:
    """torch's fused kernel on CPUs would go through both in memory order."""
    model, peer = network(), network(memory_format=torch.contiguous_format)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, masks=masks_of(model))
    reference = MaskedSGD(peer.parameters(), lr=0.1, momentum=0.9, masks=masks_of(peer))
    backward(peer, 0)
    for parameter, other in zip(model.parameters(), peer.parameters(), strict=True):
        parameter.grad = other.grad.clone()
    assert model[0].weight.grad.stride() != model[0].weight.stride()
    optimizer.step()
    reference.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(peer, reference))


def test_weights_whose_memory_format_changes_under_the_optimizer_are_an_error() -> None:
    model = network(memory_format=torch.contiguous_format)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    model.to(memory_format=torch.channels_last)
    backward(model, 0)
    with pytest.raises(AssertionError, match="memory format"):
        optimizer.step()


def test_a_closure_is_evaluated_once_even_when_the_update_is_skipped() -> None:
    model = network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, masks=masks_of(model))
    calls: list[int] = []

    def closure() -> float:
        assert torch.is_grad_enabled()
        calls.append(1)
        backward(model, 0)
        return 1.5

    assert optimizer.step(closure) == 1.5
    optimizer.skip_next()
    assert optimizer.step(closure) == 1.5
    assert len(calls) == 2


def test_masks_that_do_not_fit_are_refused_before_anything_changes() -> None:
    model = network()
    masks = masks_of(model)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, masks=masks)
    before = bits(snapshot(model, optimizer))
    weight, good = model[0].weight, ~masks[model[0].weight]
    for odd in (
        {weight: good, nn.Parameter(torch.zeros(2)): torch.ones(2, dtype=torch.bool)},
        {weight: good, model[3].weight: torch.ones(8, 8, dtype=torch.bool)},
        {weight: good, model[3].weight: torch.ones(8, 8, 1, 1)},
    ):
        with pytest.raises(ValueError, match="a mask"):
            optimizer.set_masks(odd)
    assert bits(snapshot(model, optimizer)) == before
