"""Pruning at the rewinding weights on a CUDA device: the masks that the CPU finds, and the numbers that it needs."""

import pytest
import torch

from elth_dist.models.build import build_model
from elth_dist.runtime.ranks import Ranks
from elth_dist.sparsity.criteria.synflow import synflow_scores
from elth_dist.sparsity.linearised import LinearisedNetwork
from elth_dist.sparsity.masks import Masks
from tests.jobs.test_prune import GRADIENTS, all_hashes, alone, describe, pruned_hashes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_masks_are_the_cpus_in_float64() -> None:
    on_gpu = all_hashes(Ranks(device=torch.device("cuda")), accumulate=2)
    assert on_gpu == alone()


@pytest.mark.parametrize("chosen", GRADIENTS, ids=describe)
def test_a_second_run_finds_the_same_masks(chosen: dict[str, object]) -> None:
    ranks = Ranks(device=torch.device("cuda"))
    assert pruned_hashes(ranks, chosen, 1, False) == pruned_hashes(ranks, chosen, 1, False)


def test_synflow_of_the_largest_networks_is_finite() -> None:
    model = build_model("resnet152", 1000, seed=0).cuda()
    scores = synflow_scores(*LinearisedNetwork(model, image_size=224).gradients(Masks.dense(model)))
    assert all(score.isfinite().all() for score in scores.values())
    assert max(score.max().item() for score in scores.values()) == 1.0
