"""Pruning at the rewinding weights: the masks of one run, of several world sizes, and of what a ticket asks for."""

import contextlib
import functools
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import UserError
from elth_dist.jobs.context import JobContext
from elth_dist.jobs.kinds.prune import PruneJob, prune_by_criterion
from elth_dist.jobs.setting import Setting
from elth_dist.models.build import build_model
from elth_dist.models.options import ModelOptions
from elth_dist.reporting.reporter import Reporter
from elth_dist.runtime.job_folder import JobFolder
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.signals import StopSignals
from elth_dist.runtime.watchdog import Watchdog
from elth_dist.sparsity.criteria import AnyCriterion, Criterion
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets import Ticket, transfer
from elth_dist.tickets.ticket import TicketMeta
from elth_dist.training.context import Context
from elth_dist.training.loop import Stopped
from elth_dist.training.options import TrainOptions
from tests.helpers.ranks import run_ranks

CLASSES = 4
DATA = data_options(
    name="synthetic",
    loader="synthetic",
    image_size=8,
    augment="none",
    flip=False,
    num_classes=CLASSES,
    num_train=96,
    num_val=8,
)
CRITERIA: list[dict[str, Any]] = [
    {"name": "magnitude"},
    {"name": "snip"},
    {"name": "snip", "batches": 3},
    {"name": "snip", "variant": "elth_code"},
    {"name": "grasp"},
    {"name": "grasp", "variant": "elth_code"},
    {"name": "grasp", "sample": "balanced"},
    {"name": "synflow", "steps": 10},
    {"name": "synflow", "variant": "elth_code"},
    {"name": "random"},
]
GRADIENTS = [chosen for chosen in CRITERIA if chosen["name"] in ("snip", "grasp")]


def describe(chosen: Mapping[str, Any]) -> str:
    return "-".join(str(value) for value in chosen.values())


def criterion(chosen: Mapping[str, Any]) -> Criterion:
    adapter: TypeAdapter[Criterion] = TypeAdapter(AnyCriterion)
    return adapter.validate_python(chosen)


def setting(accumulate: int = 1) -> Setting:
    return Setting(
        model=ModelOptions(arch="resnet8_cifar"),
        data=DATA,
        train=TrainOptions(global_batch=16, accumulate=accumulate),
    )


@contextlib.contextmanager
def surroundings(ranks: Ranks) -> Iterator[Context]:
    torch.set_num_threads(1)
    dataset = open_dataset(DATA, ranks, default_root=Path(), dtype=torch.float32)
    with (
        StopSignals(ranks) as stop,
        Reporter(Path(), Path, enabled=ranks.is_main, interactive=False) as reporter,
    ):
        yield Context(ranks, dataset, reporter, stop, Watchdog(0, ranks.rank))


def without_batchnorm() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ).double()


def pruned_hashes(ranks: Ranks, chosen: dict[str, Any], accumulate: int, layerwise: bool) -> dict[str, int]:
    model = without_batchnorm().to(ranks.device)
    dense = Masks.dense(model)
    counts = {name: mask.numel() // 5 for name, mask in dense.items()}
    with surroundings(ranks) as context:
        kept = counts if layerwise else dense.total // 5
        pruned, _ = prune_by_criterion(criterion(chosen), model, dense, kept, setting(accumulate), "mask", context)
    assert pruned.kept == (sum(counts.values()) if layerwise else dense.total // 5)
    return pruned.hashes()


def all_hashes(ranks: Ranks, accumulate: int) -> list[dict[str, int]]:
    return [pruned_hashes(ranks, chosen, accumulate, layerwise) for chosen in GRADIENTS for layerwise in (False, True)]


@functools.cache
def alone() -> list[dict[str, int]]:
    found = all_hashes(Ranks(), 1)
    assert len({str(hashes) for hashes in found}) == len(found), "each criterion has masks of its own"
    return found


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_masks_are_equal_for_any_ranks_and_accumulation(world_size: int, accumulate: int) -> None:
    """In float64 and without BatchNorm, where the gradient of the global batch is one thing."""
    for result in run_ranks(all_hashes, world_size, args=[accumulate]):
        assert result.value == alone()


def real_hashes(ranks: Ranks) -> list[dict[str, int]]:
    """A real network in fp32, with BatchNorm; theta_r alike on all ranks, but nothing else."""
    torch.manual_seed(100 + ranks.rank)
    found = []
    for chosen in CRITERIA:
        model = build_model("resnet8_cifar", CLASSES, seed=1)
        with surroundings(ranks) as context:
            dense = Masks.dense(model)
            pruned, _ = prune_by_criterion(criterion(chosen), model, dense, 5000, setting(), "mask", context)
            found.append(pruned.hashes())
    return found


def test_masks_are_bit_equal_on_all_ranks_of_a_run() -> None:
    first, *others = run_ranks(real_hashes, 4)
    assert all(other.value == first.value for other in others)
    by_name = dict(zip(map(describe, CRITERIA), first.value, strict=True))
    assert by_name["synflow-elth_code"] == by_name["snip-elth_code"], "what the authors' code computes"
    del by_name["synflow-elth_code"]
    assert len({str(hashes) for hashes in by_name.values()}) == len(by_name)


# ------------------------------------------------------------------------------------------------------ the job


def make_ticket(arch: str = "resnet8_cifar", seed: int = 1, density: float | None = None) -> Ticket:
    model = build_model(arch, CLASSES, seed=seed)
    masks = Masks.dense(model)
    if density is not None:
        generator = torch.Generator().manual_seed(seed)
        masks = Masks({name: torch.rand(mask.shape, generator=generator) < density for name, mask in masks.items()})
    return Ticket(arch, model.state_dict(), masks, TicketMeta(dataset="digits", level=0, rewind_step=7))


def do(folder: Path, options: dict[str, Any], **inputs: Ticket) -> Ticket:
    played = {}
    for role, ticket in inputs.items():
        played[role] = JobFolder(folder / role)
        played[role].path.mkdir(exist_ok=True)
        ticket.save(played[role].ticket)
    made = JobFolder(folder / "mask")
    made.path.mkdir(exist_ok=True)
    with surroundings(Ranks()) as context:
        job = JobContext("mask", "identity", made, played, context)
        metrics = PruneJob.model_validate({"setting": setting(), **options}).run(job)
    found = Ticket.load(made.ticket)
    assert metrics["density"] == found.density
    assert metrics["criterion"] == found.meta.criterion == options["criterion"]["name"]
    return found


@pytest.mark.parametrize("chosen", CRITERIA, ids=describe)
def test_density_is_exactly_the_tickets(chosen: dict[str, Any], tmp_path: Path) -> None:
    theta_r, like = make_ticket(), make_ticket(seed=2, density=0.13)
    total = do(tmp_path, {"criterion": {**chosen, "matched": "global"}}, ticket=theta_r, like=like)
    assert total.masks.kept == like.masks.kept
    assert all(torch.equal(tensor, theta_r.weights[name]) for name, tensor in total.weights.items()), "theta_r is whole"
    assert total.meta.rewind_step == 7
    assert total.meta.parent == theta_r.hash
    layers = do(tmp_path, {"criterion": {**chosen, "matched": "layerwise"}}, ticket=theta_r, like=like)
    assert layers.masks.counts == like.masks.counts
    assert layers.masks != like.masks
    asked = do(tmp_path, {"criterion": chosen, "density": 0.262144}, ticket=theta_r)
    assert 0 <= asked.density - 0.262144 < (1 if chosen["name"] != "random" else 12) / theta_r.masks.total


def test_density_of_another_networks_ticket(tmp_path: Path) -> None:
    theta_r, like = make_ticket(), make_ticket("resnet14_cifar", density=0.13)
    made = do(tmp_path, {"criterion": {"name": "snip"}}, ticket=theta_r, like=like)
    assert 0 <= made.density - like.density < 1 / made.masks.total
    options = {"criterion": {"name": "snip", "matched": "layerwise"}}
    with pytest.raises(
        UserError, match=r"the resnet8_cifar ticket has no layer layer1\.1\.conv1\.weight of that shape"
    ):
        do(tmp_path, options, ticket=make_ticket("resnet14_cifar"), like=make_ticket(density=0.5))


def test_ticket_from_a_file(tmp_path: Path) -> None:
    like = make_ticket(seed=2, density=0.13)
    like.save(tmp_path / "like.safetensors")
    options = {"criterion": {"name": "magnitude"}, "path": str(tmp_path / "like.safetensors")}
    assert do(tmp_path, options, ticket=make_ticket()).masks.kept == like.masks.kept


def test_layer_collapse_is_warned_about_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = make_ticket()
    ticket.weights["layer2.0.conv1.weight"].mul_(1e-6)
    made = do(tmp_path, {"criterion": {"name": "magnitude"}, "density": 0.1}, ticket=ticket)
    assert made.masks.collapsed() == ["layer2.0.conv1.weight"]
    assert "mask: layer collapse: nothing is left of layer2.0.conv1.weight" in capsys.readouterr().out


def test_diverged_weights_are_named(tmp_path: Path) -> None:
    ticket = make_ticket()
    ticket.weights["fc.weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match=r"the snip scores of conv1.weight are not finite.*lower train.lr"):
        do(tmp_path, {"criterion": {"name": "snip"}, "density": 0.1}, ticket=ticket)


def test_a_signal_ends_a_long_pass(tmp_path: Path) -> None:
    with surroundings(Ranks()) as context:
        os.kill(os.getpid(), signal.SIGTERM)
        model = build_model("resnet8_cifar", CLASSES, seed=1)
        chosen = criterion({"name": "snip", "variant": "elth_code"})
        with pytest.raises(Stopped, match="mask"):
            prune_by_criterion(chosen, model, Masks.dense(model), 5000, setting(), "mask", context)


def test_only_what_a_transfer_copied_is_pruned_anew(tmp_path: Path) -> None:
    moved = transfer(make_ticket("resnet14_cifar", density=0.2), "resnet20_cifar")
    options = {"criterion": {"name": "snip", "matched": "layerwise"}, "copies": True}
    made = do(tmp_path, options, ticket=moved, like=moved)
    assert made.masks.counts == moved.masks.counts
    changed = {name for name, mask in made.masks.items() if not torch.equal(mask, moved.masks[name])}
    assert changed == {f"layer{stage}.2.conv{conv}.weight" for stage in (1, 2, 3) for conv in (1, 2)}
    assert made.meta.plan == moved.meta.plan
    assert all(torch.equal(tensor, moved.weights[name]) for name, tensor in made.weights.items())


def test_excluded_weights_are_left_out(tmp_path: Path) -> None:
    model = build_model("vgg13", CLASSES, seed=0)
    masks = Masks.dense(model, ("fc.weight",))
    ticket = Ticket("vgg13", model.state_dict(), masks, TicketMeta(dataset="digits", level=0, rewind_step=7))
    with surroundings(Ranks()) as context:
        chosen = criterion({"name": "magnitude"})
        made, _ = prune_by_criterion(chosen, model, ticket.masks, 1000, setting(), "mask", context)
    assert list(made) == list(ticket.masks)
    assert "fc.weight" in prunable_weights(model)
    assert made.kept == 1000


@pytest.mark.parametrize("name", ["magnitude", "snip", "synflow", "random"])
def test_layers_kept_dense_do_not_compete(name: str, tmp_path: Path) -> None:
    chosen = {"name": name, "dense_layers": ["first", "fc"], "matched": "global"}
    theta_r, like = make_ticket(), make_ticket(seed=2, density=0.13)
    made = do(tmp_path, {"criterion": chosen}, ticket=theta_r, like=like)
    assert made.masks.kept == like.masks.kept
    assert [layer for layer, density in made.masks.densities.items() if density == 1] == ["conv1.weight", "fc.weight"]
    if name == "magnitude":
        others = [layer for layer in made.masks if layer not in ("conv1.weight", "fc.weight")]
        gone = torch.cat([theta_r.weights[layer][~made.masks[layer]].abs() for layer in others])
        stays = torch.cat([theta_r.weights[layer][made.masks[layer]].abs() for layer in others])
        assert gone.max() <= stays.min()
    with pytest.raises(UserError, match=r"conv1\.weight, fc\.weight alone keep .* leave nothing for the other layers"):
        do(tmp_path, {"criterion": chosen, "density": 0.005}, ticket=theta_r)
    with pytest.raises(ValidationError, match="first, fc cannot be kept dense under matched: layerwise"):
        criterion({**chosen, "matched": "layerwise"})


def test_random_of_elths_code_prunes_a_masked_theta_r(tmp_path: Path) -> None:
    theta_r, like = make_ticket(), make_ticket(seed=2, density=0.13)
    whole = do(tmp_path, {"criterion": {"name": "random"}}, ticket=theta_r, like=like)
    made = do(tmp_path, {"criterion": {"name": "random", "variant": "elth_code"}}, ticket=theta_r, like=like)
    assert made.masks == whole.masks, "the same masks"
    for name, tensor in made.weights.items():
        mask = like.masks.get(name, torch.tensor(True))
        assert torch.equal(tensor, theta_r.weights[name] * mask), "theta_r where the ticket keeps it, else 0"
    with pytest.raises(UserError, match="give one as `like`"):
        do(tmp_path, {"criterion": {"name": "random", "variant": "elth_code"}, "density": 0.1}, ticket=theta_r)


@pytest.mark.parametrize("more", [{"batches": 2}, {"variant": "elth_code"}])
def test_a_balanced_sample_is_of_a_size(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="sample: balanced takes 10 samples per class, and cannot be combined"):
        criterion({"name": "grasp", "sample": "balanced", **more})
