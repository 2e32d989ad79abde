"""Gradual pruning and DPF: densities on schedule, and which weights a gradient reaches."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.selection import exact_count
from elth_dist.sparsity.updates.schedules import cubic_density
from tests.helpers.updates import DENSITY, RECIPE, STEPS, Training, batch, network


@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
@pytest.mark.parametrize(("name", "begin", "end"), [("gradual", 2, 10), ("dpf", 0, 8)])
def test_density_is_on_schedule_at_every_step(name: str, begin: int, end: int, distribution: str) -> None:
    training = Training(Ranks(), name, distribution=distribution).begin()
    changes = {gradual for gradual in range(begin, STEPS + 1, 3) if name == "dpf" or gradual <= end} | {end}
    expected = 1.0
    for step in range(STEPS):
        training.step(step)
        done = step + 1
        if done in changes:
            expected = cubic_density(done, DENSITY, begin, end)
        masks = training.update.masks
        if distribution == "global":
            assert masks.kept == exact_count(expected, masks.total), done
        elif distribution == "uniform":
            counts = {layer: exact_count(expected, mask.numel()) for layer, mask in masks.items()}
            assert masks.counts == {**counts, "0.weight": masks["0.weight"].numel()}, done
        else:
            assert masks.density == pytest.approx(expected, abs=len(masks) / masks.total)
    training.update.finish()
    training.update.check()


def test_gradual_pruning_takes_the_smallest_weights_and_never_gives_back() -> None:
    training = Training(Ranks(), "gradual", distribution="global").begin()
    changes = 0
    for step in range(STEPS):
        finite = training.gradients(step)
        training.update.before_step(step, finite)
        training.engine.step()
        before = training.snapshot()
        training.update.after_step(step, finite)
        training.update.check()
        masks = training.update.masks
        if masks is before.masks:
            continue
        changes += 1
        gone = {layer: before.masks[layer] & ~mask for layer, mask in masks.items()}
        pruned = torch.cat([before.weights[layer][mask].abs() for layer, mask in gone.items()])
        kept = torch.cat([before.weights[layer][mask].abs() for layer, mask in masks.items()])
        if len(pruned):
            assert pruned.max() <= kept.min()
        assert not any((mask & ~before.masks[layer]).any() for layer, mask in masks.items())
    assert changes == 4


def test_dpf_applies_the_pruned_networks_gradient_to_all_dense_weights() -> None:
    """w <- w - lr g(mask w), with momentum and weight decay, written down once more without any of our parts."""
    training = Training(Ranks(), "dpf").begin()
    reference = network()
    dense = {name: parameter.detach().clone() for name, parameter in reference.named_parameters()}
    momentum = {name: torch.zeros_like(value) for name, value in dense.items()}
    reached = False
    for step in range(STEPS):
        masks = training.update.masks
        used = {
            name: (value * masks[name] if name in masks else value).clone().requires_grad_()
            for name, value in dense.items()
        }
        images, labels = batch(step)
        loss = F.cross_entropy(functional_call(reference, used, images), labels)
        gradients = torch.autograd.grad(loss, list(used.values()))
        for (name, value), gradient in zip(dense.items(), gradients, strict=True):
            if name in masks:
                reached |= bool((gradient[~masks[name]] != 0).any())
            momentum[name] = RECIPE["momentum"] * momentum[name] + gradient + RECIPE["weight_decay"] * value
            dense[name] = value - RECIPE["lr"] * momentum[name]
        training.step(step)
        for name, parameter in training.engine.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), dense[name], rtol=1e-4, atol=1e-6)
    assert reached, "pruned weights have received gradients"
    training.update.finish()
    for layer, mask in training.update.masks.items():
        weight = training.weights[layer].detach()
        torch.testing.assert_close(weight[mask], dense[layer][mask], rtol=1e-4, atol=1e-6)
        assert (weight[~mask] == 0).all()


def test_dpf_weights_come_back_with_their_values() -> None:
    training = Training(Ranks(), "dpf").begin()
    for step in range(8):
        training.step(step)
    layer = "2.weight"
    mask = training.update.masks[layer]
    place = tuple((~mask).nonzero()[0].tolist())
    with torch.no_grad():
        training.weights[layer][place] = 7.0  # between steps the weights are the dense ones
    training.step(8)
    assert training.update.masks[layer][place]
    assert training.weights[layer][place].item() == pytest.approx(7.0, abs=1.0)


def test_dpf_evaluates_the_pruned_network_and_trains_on_as_if_it_had_not() -> None:
    plain, evaluated = Training(Ranks(), "dpf").begin(), Training(Ranks(), "dpf").begin()
    differed = False
    for step in range(STEPS):
        plain.step(step)
        evaluated.step(step)
        pruned = {name: weight.detach().clone() for name, weight in evaluated.engine.model.named_parameters()}
        evaluated.update.masks.apply_(pruned)
        expected = functional_call(evaluated.engine.model, pruned, batch(0)[0])
        torch.testing.assert_close(evaluated.evaluate(), expected)
        dense = evaluated.engine.model(batch(0)[0])
        differed |= not torch.allclose(dense, expected, rtol=1e-2)
    assert differed, "between evaluations the weights are the dense ones"
    plain.update.finish()
    evaluated.update.finish()
    for layer in plain.weights:
        assert torch.equal(plain.weights[layer], evaluated.weights[layer])


def test_which_steps_take_dense_gradients() -> None:
    assert not Training(Ranks(), "gradual").update.dense_gradient(3)
    assert Training(Ranks(), "dpf").update.dense_gradient(3)


@pytest.mark.parametrize("name", ["gradual", "dpf"])
@pytest.mark.parametrize("points", [{"begin": "5it", "end": "5it"}, {"begin": 0.0, "end": "13it"}])
def test_a_ramp_beyond_the_training_is_a_users_mistake(name: str, points: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"^the ramp goes from begin .* to end"):
        Training(Ranks(), name, **points)


@pytest.mark.parametrize("kept", [240, 301, 444])
@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
@pytest.mark.parametrize("name", ["gradual", "dpf"])
def test_a_ramp_ends_at_a_tickets_number_of_weights(name: str, distribution: str, kept: int) -> None:
    training = Training(Ranks(), name, distribution=distribution, kept=kept).begin()
    counts = []
    for step in range(STEPS):
        training.step(step)
        counts.append(training.update.masks.kept)
    training.update.finish()
    assert counts[-1] == kept
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3, "on a ramp"


@pytest.mark.parametrize("name", ["gradual", "dpf"])
@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_layers_stay_dense_and_the_others_make_up_for_them(name: str, distribution: str) -> None:
    options = {"distribution": distribution, "dense_layers": ["first", "last"]}
    training = Training(Ranks(), name, kept=400, **options).begin()
    for step in range(STEPS):
        training.step(step)
        densities = training.update.masks.densities
        assert densities["0.weight"] == densities["6.weight"] == 1.0
    training.update.finish()
    assert training.update.masks.kept == 400
    with pytest.raises(UserError, match=r"0\.weight, 6\.weight alone keep 322 of 754 weights, a density of 42.706%"):
        Training(Ranks(), name, kept=322, **options)
