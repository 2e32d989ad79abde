"""The public names: what a notebook needs, without an entry or a process group."""

import doctest
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import elth_dist
from elth_dist import Evaluation, MaskedSGD, Masks, build_model, evaluate, prunable_weights, prune
from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.selection import exact_count


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, elth_dist; elth_dist.__version__, dir(elth_dist); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_every_public_name_is_there() -> None:
    assert sorted(elth_dist.__all__) == elth_dist.__all__
    assert set(elth_dist.__all__) <= set(dir(elth_dist))
    for name in elth_dist.__all__:
        assert getattr(elth_dist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        elth_dist.prunes  # noqa: B018


def test_registries_know_the_built_in_kinds() -> None:
    program = "import elth_dist; print(*elth_dist.criteria, *elth_dist.updates, *elth_dist.job_kinds)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert {"magnitude", "snip", "rigl", "dpf", "level", "transfer"} <= set(done.stdout.split())


def test_evaluate_is_the_function_after_the_whole_package_is_imported() -> None:
    for name in ("train", "sweeps.plan", "jobs.walk", "evaluate_file", "runs"):
        importlib.import_module(f"elth_dist.{name}")
    assert callable(elth_dist.evaluate)


def test_the_example_of_prune() -> None:
    examples = doctest.DocTestFinder().find(prune, "prune", globs={})
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


# ------------------------------------------------------------------------------------------------------------- prune


@pytest.mark.parametrize("density", [0, 0.1, 0.2, 1])
def test_prune_keeps_exactly_the_largest_weights(density: float) -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = prune(model, density)
    assert list(masks) == list(prunable_weights(model))
    assert masks.kept == exact_count(density, masks.total)
    weights = prunable_weights(model)
    kept = torch.cat([weights[name][mask] for name, mask in masks.items()]).abs()
    pruned = torch.cat([weights[name][~mask] for name, mask in masks.items()]).abs()
    assert not len(kept) or not len(pruned) or kept.min() >= pruned.max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_prune_leaves_out_what_the_family_never_prunes() -> None:
    assert "fc.weight" not in prune(build_model("vgg13", 10, seed=0), 0.5)
    assert "fc.weight" in prune(build_model("resnet8_cifar", 10, seed=0), 0.5)


def test_prune_by_scores_and_further() -> None:
    weights = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[5.0, 6.0]])}
    scores = {name: -weight.double() for name, weight in weights.items()}
    masks = prune(weights, 0.5, scores=scores)
    assert masks == Masks({"a": torch.tensor([[True, True], [True, False]]), "b": torch.tensor([[False, False]])})
    further = prune(weights, 0.3, masks=masks)  # ceil(0.3 x 6) = 2 of what is left, by magnitude
    assert further == Masks({"a": torch.tensor([[False, True], [True, False]]), "b": torch.tensor([[False, False]])})


def test_prune_half_precision() -> None:
    weights = {"a": torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.bfloat16)}
    assert prune(weights, 0.5)["a"].tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: prune(w, 1.5), "between 0 and 1"),
        (lambda w: prune({**w, "bn.weight": torch.ones(2)}, 0.5), "'bn.weight' has 1 dimension"),
        (lambda w: prune(w, 0.5, scores={}), "no scores for 'a'"),
        (lambda w: prune(w, 0.5, scores={"a": torch.ones(3, 3)}), "the scores of 'a'"),
        (lambda w: prune(w, 0.5, scores={"a": torch.full((2, 2), torch.nan)}), "NaN"),
        (lambda w: prune(w, 0.9, masks=Masks({"a": torch.zeros(2, 2, dtype=torch.bool)})), "keep 0 only"),
        (lambda w: prune(w, 0.9, masks=Masks({"c": torch.ones(2, 2, dtype=torch.bool)})), "a mask for 'c'"),
    ],
)
def test_prune_refuses(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call({"a": torch.ones(2, 2)})


def test_a_pruned_network_trains() -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    masks, weights = prune(model, 0.1), prunable_weights(model)
    optimizer = MaskedSGD(
        model.parameters(), lr=0.1, momentum=0.9, masks={weights[name]: masks[name] for name in masks}
    )
    nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    assert masks.check_zero(weights) == []


# ---------------------------------------------------------------------------------------------------------- evaluate


def _samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(23, 3, 8, 8, generator=generator), torch.randint(10, (23,), generator=generator)


def test_evaluate_a_data_loader() -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    model.layer1.eval()  # type: ignore[operator]
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = _samples()
    measured = evaluate(model, DataLoader(TensorDataset(images, labels), batch_size=5))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        logits = model.eval()(images)
    assert isinstance(measured, Evaluation)
    assert measured.samples == 23
    assert measured.top1 == (logits.argmax(1) == labels).sum().item() / 23
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert measured.top5 == (ranks < 5).sum().item() / 23
    assert measured.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_evaluate_leaves_out_padding() -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    images, labels = _samples()

    def batches() -> Iterator[tuple[Tensor, Tensor, str]]:
        padded = torch.cat([labels[20:], torch.full((17,), -1)])
        yield images[:20], labels[:20], "more"
        yield torch.cat([images[20:], images[:17]]), padded, "more"

    padded = evaluate(model, batches(), device="cpu")
    plain = evaluate(model, [(images[:20], labels[:20]), (images[20:], labels[20:])])
    assert (padded.samples, padded.top1, padded.top5) == (plain.samples, plain.top1, plain.top5)
    assert padded.loss == pytest.approx(plain.loss, rel=1e-6)


def test_evaluate_an_open_dataset(tmp_path: Path) -> None:
    options = data_options(name="synthetic", image_size=8, num_classes=10, num_train=64, num_val=37)
    dataset = open_dataset(options, Ranks(), default_root=tmp_path, dtype=torch.float32)
    model = build_model("resnet8_cifar", 10, seed=0)
    assert evaluate(model, dataset).samples == 37
    half = options.open(Ranks(rank=1, world_size=2), tmp_path, torch.float32)
    with pytest.raises(ValueError, match="of the dataset's 37 samples only"):
        evaluate(model, half)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no sample with a label"),
        ([(torch.zeros(2, 3, 8, 8), torch.tensor([-1, -1]))], "no sample with a label"),
        ([torch.zeros(2, 3, 8, 8)], "a batch is torch.float32"),
        ([{"image": 1}], "a batch is a dict"),
        ([(torch.zeros(2, 3, 8, 8), torch.zeros(2))], "the labels of a batch are torch.float32"),
    ],
)
def test_evaluate_refuses(batches: list[object], message: str) -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    with pytest.raises(ValueError, match=message):
        evaluate(model, batches)
    assert model.training
