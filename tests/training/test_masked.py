import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks
from elth_dist.training.masked import Masked, MaskedAdamW, MaskedSGD

Kind = type[MaskedSGD] | type[MaskedAdamW]
PEERS: dict[Any, Any] = {MaskedSGD: torch.optim.SGD, MaskedAdamW: torch.optim.AdamW}
RECIPES: list[tuple[Kind, dict[str, Any]]] = [
    (MaskedSGD, {"lr": 0.1}),
    (MaskedSGD, {"lr": 0.1, "momentum": 0.9}),
    (MaskedSGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
    (MaskedSGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}),
    (MaskedAdamW, {"lr": 0.01, "weight_decay": 0.0}),
    (MaskedAdamW, {"lr": 0.01}),
    (MaskedAdamW, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.5}),
]
every_recipe = pytest.mark.parametrize(
    ("kind", "recipe"), [pytest.param(*row, id=f"{row[0].__name__}-{index}") for index, row in enumerate(RECIPES)]
)
every_optimizer = pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        pytest.param(MaskedSGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}, id="sgd"),
        pytest.param(MaskedAdamW, {"lr": 0.01, "weight_decay": 0.1}, id="adamw"),
    ],
)


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
    """Copies of the parameters, then of all their state, counters too."""
    parameters = list(model.parameters())
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    state = [tensor for slots in states for _, tensor in sorted(slots.items()) if tensor is not None]
    return [tensor.detach().clone() for tensor in [*parameters, *state]]


def slots_of(optimizer: Masked, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What masks act on, of a parameter."""
    return {name: optimizer.state[parameter][name] for name in optimizer.slots}


def bits(tensors: list[Tensor]) -> list[bytes]:
    return [tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors]


@every_recipe
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_masked_training_equals_one_that_masks_weights_and_slots_again_after_each_step(
    kind: Kind, recipe: dict[str, Any], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    model, peer = network(dtype, memory_format), network(dtype, memory_format)
    masks, peer_masks = masks_of(model), masks_of(peer)
    optimizer = kind(model.parameters(), **recipe, masks=masks)
    reference = PEERS[kind](peer.parameters(), **recipe, fused=True)

    def mask_peer() -> None:
        with torch.no_grad():
            for parameter, mask in peer_masks.items():
                parameter.masked_fill_(~mask, 0)
                for name in kind.slots:
                    slot = reference.state.get(parameter, {}).get(name)
                    if slot is not None:
                        slot.masked_fill_(~mask, 0)

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


@every_recipe
def test_it_equals_torchs_with_gradients_masked_by_hand(kind: Kind, recipe: dict[str, Any]) -> None:
    model, peer = network(), network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
    reference = PEERS[kind](peer.parameters(), **recipe, fused=True)
    with torch.no_grad():
        for parameter, mask in masks_of(peer).items():
            parameter.masked_fill_(~mask, 0)
    for step in range(5):
        backward(model, step)
        optimizer.step()
        backward(peer, step)
        for parameter, mask in masks_of(peer).items():
            parameter.grad.mul_(mask)
        reference.step()
    assert all(map(torch.equal, snapshot(model, optimizer), snapshot(peer, reference)))  # zeros of either sign


@every_recipe
@pytest.mark.parametrize("masks", ["none", "dense"])
def test_without_pruned_weights_it_is_torchs_to_the_bit(kind: Kind, recipe: dict[str, Any], masks: str) -> None:
    model, peer = network(), network()
    optimizer, reference = kind(model.parameters(), **recipe), PEERS[kind](peer.parameters(), **recipe)
    if masks == "dense":
        optimizer.set_masks({parameter: torch.ones_like(mask) for parameter, mask in masks_of(model).items()})
    for step in range(5):
        backward(model, step)
        optimizer.step()
        backward(peer, step)
        reference.step()
    # torch's single-tensor kernel rounds in the same places, but may fuse a multiplication and an addition
    for ours, theirs in zip(model.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    fused_peer = network()
    fused = PEERS[kind](fused_peer.parameters(), **recipe, fused=True)
    for step in range(5):
        backward(fused_peer, step)
        fused.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(fused_peer, fused))


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        pytest.param(MaskedSGD, {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}, id="sgd"),
        pytest.param(MaskedAdamW, {"lr": 0.03, "weight_decay": 0.1, "eps": 1e-20}, id="adamw"),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pruned_weights_and_slots_are_exactly_zero_after_many_steps(
    kind: Kind, recipe: dict[str, Any], memory_format: torch.memory_format
) -> None:
    model = network(memory_format=memory_format)
    masks = masks_of(model)
    optimizer = kind(model.parameters(), **recipe, masks=masks)
    for step in range(60):
        backward(model, step)
        optimizer.step()
    for parameter, mask in masks.items():
        assert parameter[~mask].count_nonzero() == 0
        assert parameter[mask].all()
        for slot in slots_of(optimizer, parameter).values():
            assert slot[~mask].count_nonzero() == 0
            assert slot[mask].all()
            assert parameter.stride() == slot.stride()
    assert optimizer.not_zero() == ([], {})


@every_optimizer
def test_damage_is_found_by_slot(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    masks = masks_of(model)
    optimizer = kind(model.parameters(), **recipe, masks=masks)
    weight, other = masks
    for name in kind.slots:
        optimizer.state[weight][name].fill_(float("nan"))
        wrong = optimizer.not_zero()
        assert wrong[0] == []
        assert list(wrong[1]) == [name]
        assert len(wrong[1][name]) == 1
        assert wrong[1][name][0] is weight
        optimizer.state[weight][name].zero_()
    with torch.no_grad():
        other.view(-1)[(~masks[other]).view(-1)] = 1e-45
    [damaged], slots = optimizer.not_zero()
    assert damaged is other
    assert slots == {}


def scaled(optimizer: Masked, scale: float, found_inf: float) -> None:
    """Step as torch.amp.GradScaler.step does, which sets these two and calls step()."""
    optimizer.grad_scale = torch.tensor(scale)
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


@every_optimizer
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_of_non_finite_gradients_changes_not_a_bit(
    kind: Kind, recipe: dict[str, Any], steps_before: int
) -> None:
    """Also the very first, when a plain fused SGD would leave uninitialised memory as momentum; counters too."""
    model = network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
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


@every_optimizer
def test_gradients_are_unscaled_within_the_step(kind: Kind, recipe: dict[str, Any]) -> None:
    model, peer = network(), network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
    reference = kind(peer.parameters(), **recipe, masks=masks_of(peer))
    for step in range(3):
        backward(model, step, scale=2.0**10)  # a power of two: unscaling is exact
        scaled(optimizer, 2.0**10, found_inf=0.0)
        backward(peer, step)
        reference.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(peer, reference))


@every_optimizer
def test_torchs_grad_scaler_drives_it(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
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


@every_optimizer
def test_skip_next_skips_exactly_one_update(kind: Kind, recipe: dict[str, Any]) -> None:
    model, peer = network(), network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
    reference = kind(peer.parameters(), **recipe, masks=masks_of(peer))
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


@every_optimizer
def test_new_masks_in_mid_training_zero_what_goes_and_free_what_comes_back(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    old, new = masks_of(model, seed=1), masks_of(model, seed=2)
    optimizer = kind(model.parameters(), **recipe, masks=old)
    for step in range(4):
        backward(model, step)
        optimizer.step()
    before = {parameter: parameter.detach().clone() for parameter in new}
    optimizer.set_masks(new)
    for parameter, mask in new.items():
        assert torch.equal(parameter, torch.where(mask, before[parameter], 0.0))
        for slot in slots_of(optimizer, parameter).values():
            assert parameter[~mask].count_nonzero() == slot[~mask].count_nonzero() == 0
            assert slot[mask & old[parameter]].all()
            assert slot[mask & ~old[parameter]].count_nonzero() == 0
    backward(model, 9)
    optimizer.step()
    for parameter, mask in new.items():
        assert parameter[~mask].count_nonzero() == 0
        assert parameter[mask & ~old[parameter]].count_nonzero() > 0
    optimizer.set_masks({})
    backward(model, 10)
    optimizer.step()
    assert all(parameter[~mask].count_nonzero() > 0 for parameter, mask in new.items())


@every_optimizer
def test_parameters_without_a_mask_are_trained_as_ever(kind: Kind, recipe: dict[str, Any]) -> None:
    """Up to the first step, when what they see is still the same, with any masks on the others."""
    model, peer = network(), network()
    optimizer = kind(model.parameters(), **recipe)
    reference = kind(peer.parameters(), **recipe)
    for net in (model, peer):
        backward(net, 0)
    optimizer.set_masks(masks_of(model))
    optimizer.step()
    reference.step()
    for (name, ours), theirs in zip(model.named_parameters(), peer.parameters(), strict=True):
        assert torch.equal(ours, theirs) == (name not in ("0.weight", "3.weight"))


@every_optimizer
def test_a_parameter_without_gradient_stays_as_it_is(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    masks = masks_of(model)
    optimizer = kind(model.parameters(), **recipe, masks=masks)
    model[0].weight.requires_grad_(False)
    before = snapshot(model, optimizer)
    backward(model, 0)
    assert model[0].weight.grad is None
    optimizer.step()
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[3].weight, before[3])
    optimizer.zero_grad()
    optimizer.step()  # nothing has a gradient


@every_optimizer
def test_parameter_groups_have_their_own_options(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = kind(groups, **{**recipe, "lr": 0.1}, masks=masks_of(model))
    before = snapshot(model, optimizer)[: len(list(model.parameters()))]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * (0.95 if parameter.ndim > 1 else 1.0))


def test_a_group_that_is_added_later_has_its_state_at_once() -> None:
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
    for optimizer in (MaskedSGD([first], lr=0.1, momentum=0.9), MaskedAdamW([first])):
        optimizer.add_param_group({"params": [second]})
        assert optimizer.state[second].keys() == optimizer.state[first].keys() != set()
        assert all(tensor.count_nonzero() == 0 for tensor in optimizer.state[second].values())


def test_a_restarted_optimizer_has_fresh_state_and_no_masks() -> None:
    model = network()
    for optimizer in (
        MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, masks=masks_of(model)),
        MaskedAdamW(model.named_parameters(), masks=masks_of(model)),
    ):
        backward(model, 0)
        optimizer.step()
        optimizer.restart()
        assert all(tensor.count_nonzero() == 0 for state in optimizer.state.values() for tensor in state.values())
        assert optimizer.not_zero() == ([], {})
        with pytest.raises(ValueError, match="knows no names"):
            optimizer.set_masks({"0.weight": torch.ones(8, 3, 3, 3, dtype=torch.bool)})


def test_adamw_without_eps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eps 0\.0: must be above"):
        MaskedAdamW([nn.Parameter(torch.ones(3))], eps=0.0)


# ------------------------------------------------------------------------------------------------- masks by name


@every_optimizer
@pytest.mark.parametrize("grouped", [False, True])
def test_masks_can_be_given_by_name(kind: Kind, recipe: dict[str, Any], grouped: bool) -> None:
    model, peer = network(), network()
    by_parameter = masks_of(peer)
    masks = Masks({"0.weight": by_parameter[peer[0].weight], "3.weight": by_parameter[peer[3].weight]})
    named: Any = model.named_parameters()
    if grouped:
        pairs = list(named)
        named = [{"params": pairs[:2]}, {"params": pairs[2:], "weight_decay": recipe["weight_decay"]}]
    optimizer = kind(named, **recipe, masks=masks)
    reference = kind(peer.parameters(), **recipe, masks=by_parameter)
    for step in range(3):
        backward(model, step)
        optimizer.step()
        backward(peer, step)
        reference.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(peer, reference))
    assert masks.check_zero(dict(model.named_parameters())) == []


@every_optimizer
def test_names_that_do_not_fit_are_named(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    optimizer = kind(model.named_parameters(), **recipe)
    before = bits(snapshot(model, optimizer))
    good = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
    for masks, message in (
        ({"0.weight": good, "module.3.weight": good}, r"'module\.3\.weight', .* did you mean '3\.weight'\?"),
        ({"0.weight": good, "3.weight": good}, r"for '3\.weight' \[8, 8, 1, 1\]; must be bool and of the same shape"),
        ({"0.weight": good, "stem": good}, r"'stem', a parameter that the optimizer does not have$"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.set_masks(masks)
    assert bits(snapshot(model, optimizer)) == before
    with pytest.raises(ValueError, match=r"'0\.weight', but the optimizer knows no names: .*named_parameters"):
        kind(model.parameters(), **recipe, masks={"0.weight": good})


@every_optimizer
def test_a_restored_optimizer_continues_to_the_bit_and_keeps_its_masks(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
    for step in range(3):
        backward(model, step)
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    assert all(slots.keys() == {*kind.slots, *kind.counters} for slots in state["state"].values())
    for slots in state["state"].values():
        for name in kind.slots:
            slots[name] = slots[name].contiguous()  # a file knows no channels_last
    resumed = network()
    resumed.load_state_dict(model.state_dict())
    continued = kind(resumed.parameters(), **recipe, masks=masks_of(resumed))
    continued.load_state_dict(state)
    for step in range(3, 6):
        backward(model, step)
        optimizer.step()
        backward(resumed, step)
        continued.step()
    assert bits(snapshot(resumed, continued)) == bits(snapshot(model, optimizer))
    assert all(parameter[~mask].count_nonzero() == 0 for parameter, mask in masks_of(resumed).items())


@every_optimizer
def test_gradients_of_other_strides_are_taken_by_their_indices(kind: Kind, recipe: dict[str, Any]) -> None:
    """torch's fused kernel on CPUs would go through both in memory order."""
    model, peer = network(), network(memory_format=torch.contiguous_format)
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
    reference = kind(peer.parameters(), **recipe, masks=masks_of(peer))
    backward(peer, 0)
    for parameter, other in zip(model.parameters(), peer.parameters(), strict=True):
        parameter.grad = other.grad.clone()
    assert model[0].weight.grad.stride() != model[0].weight.stride()
    optimizer.step()
    reference.step()
    assert bits(snapshot(model, optimizer)) == bits(snapshot(peer, reference))


@every_optimizer
def test_weights_whose_memory_format_changes_under_the_optimizer_are_an_error(
    kind: Kind, recipe: dict[str, Any]
) -> None:
    model = network(memory_format=torch.contiguous_format)
    optimizer = kind(model.parameters(), **recipe)
    model.to(memory_format=torch.channels_last)
    backward(model, 0)
    with pytest.raises(AssertionError, match="memory format"):
        optimizer.step()


@every_optimizer
def test_a_closure_is_evaluated_once_even_when_the_update_is_skipped(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    optimizer = kind(model.parameters(), **recipe, masks=masks_of(model))
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


@every_optimizer
def test_masks_that_do_not_fit_are_refused_before_anything_changes(kind: Kind, recipe: dict[str, Any]) -> None:
    model = network()
    masks = masks_of(model)
    optimizer = kind(model.parameters(), **recipe, masks=masks)
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
