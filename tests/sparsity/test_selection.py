import itertools
import math
import random
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elth_dist.sparsity.criteria import magnitude
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import Fragment, Threshold, exact_count, identity, prune, prune_fragments, select

INF = float("inf")
# few distinct values, so that there are many ties; among them everything that is special about fp32
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, -1.1754944e-38, 1.0, 1.0000001, -1.0, 3.4e38, -3.4e38, INF, -INF]
FLOATS = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor], int]:
    """Scores, candidates and k; what is no candidate may be NaN."""
    scores, candidates, available = [], [], 0
    for size in draw(st.lists(st.integers(1, 30), min_size=1, max_size=4)):
        keep = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        values = [draw(FLOATS) if kept else draw(st.sampled_from([float("nan"), -INF, 0.0])) for kept in keep]
        scores.append(torch.tensor(values, dtype=torch.float32))
        candidates.append(torch.tensor(keep))
        available += sum(keep)
    return scores, candidates, draw(st.one_of(st.just(0), st.just(available), st.integers(0, available)))


def reference(scores: list[Tensor], candidates: list[Tensor], k: int) -> tuple[list[bool], Threshold | None]:
    """The flat mask after pruning by a stable sort, and the threshold where there is one."""
    values, kept = torch.cat(scores).numpy(), torch.cat(candidates).numpy().copy()
    positions = np.flatnonzero(kept)
    order = positions[np.argsort(values[positions], kind="stable")]
    kept[order[:k]] = False
    if k == 0:
        return kept.tolist(), None
    last = np.float32(values[order[k - 1]]) + np.float32(0)  # -0.0 + 0.0 is 0.0
    ties = int((values[order[:k]] == last).sum())
    return kept.tolist(), Threshold(int(last.view(np.uint32)), ties)


def as_masks(candidates: list[Tensor]) -> Masks:
    return Masks({f"w{i}": tensor for i, tensor in enumerate(candidates)})


def flat(masks: Masks) -> list[bool]:
    bits: list[bool] = torch.cat([mask.reshape(-1) for mask in masks.values()]).tolist()
    return bits


@given(problems())
def test_pruning_is_what_a_stable_sort_gives(problem: tuple[list[Tensor], list[Tensor], int]) -> None:
    scores, candidates, k = problem
    expected, threshold = reference(scores, candidates, k)
    masks = as_masks(candidates)
    before = masks.hashes()
    assert flat(prune(masks, {f"w{i}": tensor for i, tensor in enumerate(scores)}, k)) == expected
    assert masks.hashes() == before
    found = select(scores, candidates, k)
    assert found == (threshold or (0xFF800000, 0))


class Together:
    """Sums tensors of W threads, as an all-reduce does."""

    def __init__(self, world_size: int) -> None:
        self.parts: list[Tensor] = []
        self.values: dict[int, list[list[int]]] = {}
        self.barrier = threading.Barrier(world_size)
        self.lock = threading.Lock()

    def __call__(self, tensor: Tensor) -> Tensor:
        assert tensor.dtype == torch.uint8 or (tensor.dtype == torch.int64 and tensor.numel() <= 2048)
        with self.lock:
            self.parts.append(tensor)
        self.barrier.wait(timeout=600)
        total = torch.stack(self.parts).sum(0, dtype=tensor.dtype)
        if self.barrier.wait(timeout=600) == 0:
            self.parts.clear()
        self.barrier.wait(timeout=600)
        return total

    def gather(self, rank: int, value: list[list[int]]) -> list[list[list[int]]]:
        """Every thread's value, as a gather does; once."""
        self.values[rank] = value
        self.barrier.wait(timeout=600)
        return [self.values[rank] for rank in sorted(self.values)]


def on_ranks(world_size: int, work: Callable[[int, Together], object]) -> list[object]:
    together = Together(world_size)
    results: list[object] = [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank, together)
        except ValueError as error:
            results[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("distinct", [3, 1000, 10**9])
def test_shards_over_ranks_give_the_threshold_of_the_whole(world_size: int, distinct: int) -> None:
    generator = torch.Generator().manual_seed(distinct)
    scores = torch.randint(-distinct, distinct, (4001,), generator=generator).float() / 7
    candidates = torch.rand(4001, generator=generator) < 0.7
    for k in (1, 777, int(candidates.sum())):
        whole = select([scores], [candidates], k)
        cuts = [0, 5, *(1000 * i for i in range(2, world_size)), 4001]  # the shards are uneven on purpose

        def work(rank: int, together: Together, k: int = k, cuts: list[int] = cuts) -> Threshold:
            own = slice(cuts[rank], cuts[rank + 1])
            return select([scores[own]], [candidates[own]], k, together)

        assert on_ranks(world_size, work) == [whole] * world_size


def test_a_rank_may_hold_nothing() -> None:
    scores, nothing = torch.tensor([3.0, 1.0, 2.0]), torch.empty(0)

    def work(rank: int, together: Together) -> Threshold:
        own = scores if rank == 0 else nothing
        return select([own], [torch.ones(own.shape, dtype=torch.bool)], 2, together)

    assert on_ranks(2, work) == [select([scores], [torch.ones(3, dtype=torch.bool)], 2)] * 2


@given(problems(), st.lists(st.integers(0, 119), max_size=6), st.integers(1, 4), st.randoms(use_true_random=False))
def test_fragments_over_ranks_give_the_masks_of_the_whole(
    problem: tuple[list[Tensor], list[Tensor], int], cuts: list[int], world_size: int, chance: random.Random
) -> None:
    """However weights are cut, and whichever rank holds which piece, in whatever order."""
    scores, candidates, k = problem
    masks, owners = as_masks(candidates), []
    for (name, mask), score in zip(masks.items(), scores, strict=True):
        places = sorted({0, mask.numel(), *(cut for cut in cuts if cut < mask.numel())})
        for start, end in itertools.pairwise(places):
            owners.append((chance.randrange(world_size), Fragment(name, start, score[start:end])))
    chance.shuffle(owners)
    gathered = Together(world_size)

    def work(rank: int, together: Together) -> Masks:
        own = [fragment for owner, fragment in owners if owner == rank]
        return prune_fragments(masks, own, k, together, lambda value: gathered.gather(rank, value))

    whole = prune(masks, {f"w{index}": score for index, score in enumerate(scores)}, k)
    assert on_ranks(world_size, work) == [whole] * world_size


def test_fragments_that_are_not_those_of_the_masks_are_refused() -> None:
    masks, score = Masks({"w": torch.ones(4, dtype=torch.bool)}), torch.arange(4.0)
    for fragments, message in [
        ([Fragment("v", 0, score)], "'v' from 0 with 4 scores"),
        ([Fragment("w", 1, score)], "'w' from 1 with 4 scores"),
        ([Fragment("w", 0, score[:3])], "each of the 4 masked weights once"),
    ]:
        with pytest.raises(ValueError, match=message):
            prune_fragments(masks, fragments, 1, identity, lambda value: [value])


def test_every_rank_refuses_a_score_that_is_nan_on_one() -> None:
    def work(rank: int, together: Together) -> Threshold:
        scores = torch.tensor([1.0, float("nan") if rank == 1 else 2.0])
        return select([torch.ones(2), scores], [torch.ones(2, dtype=torch.bool)] * 2, 1, together, names=("a", "b"))

    assert on_ranks(2, work) == ["1 scores are NaN, the first on another rank", "1 scores are NaN, the first in 'b'"]


def test_a_nan_of_either_sign_and_any_payload_is_found_and_its_tensor_named() -> None:
    for bits in (0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x400000, -0x7FFFFF):
        odd = torch.tensor([0, bits], dtype=torch.int32).view(torch.float32)
        assert odd.isnan()[1]
        masks = as_masks([torch.ones(2, dtype=torch.bool)] * 2)
        for k in (0, 1):
            with pytest.raises(ValueError, match="'w1'"):
                prune(masks, {"w0": torch.zeros(2), "w1": odd}, k)


def test_infinities_are_scores_like_any() -> None:
    scores = torch.tensor([INF, -INF, 1.0, INF])
    everything = torch.ones(4, dtype=torch.bool)
    assert [select([scores], [everything], k).score for k in (1, 2, 3, 4)] == [-INF, 1.0, INF, INF]
    assert select([scores], [everything], 3).ties == 1


def test_the_first_by_position_go_among_ties_also_across_tensors() -> None:
    masks = as_masks([torch.ones(3, dtype=torch.bool), torch.tensor([True, False, True])])
    scores = {"w0": torch.zeros(3), "w1": torch.tensor([-0.0, -5.0, 0.0])}
    assert flat(prune(masks, scores, 4)) == [False, False, False, False, False, True]


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_strides_do_not_matter(distinct: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 5, 3, 3), (4, 6, 1, 1), (7, 9)]
    scores = {f"w{i}": torch.randint(distinct, s, generator=generator).float() for i, s in enumerate(shapes)}
    masks = Masks({name: torch.rand(score.shape, generator=generator) < 0.8 for name, score in scores.items()})

    def strided(tensor: Tensor) -> Tensor:
        return tensor.clone(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.t().contiguous().t()

    k = masks.kept // 3
    expected = prune(masks, scores, k)
    assert expected.kept == masks.kept - k
    twisted = {name: strided(score) for name, score in scores.items()}
    assert prune(masks, twisted, k) == expected
    assert prune(Masks({name: strided(mask) for name, mask in masks.items()}), twisted, k) == expected


def test_the_threshold_applied_is_the_one_shared() -> None:
    masks = as_masks([torch.ones(4, dtype=torch.bool)])
    scores = {"w0": torch.tensor([1.0, 2.0, 2.0, 3.0])}
    seen: list[Threshold] = []

    def share(threshold: Threshold) -> Threshold:
        seen.append(threshold)
        return Threshold(seen[0].bits, 2)

    assert flat(prune(masks, scores, 2, share=share)) == [False, False, False, True]
    assert [threshold.score for threshold in seen] == [2.0]


def test_pruning_collapses_a_layer_without_complaint() -> None:
    masks = as_masks([torch.ones(4, dtype=torch.bool), torch.ones(2, dtype=torch.bool)])
    assert prune(masks, {"w0": torch.ones(4), "w1": torch.zeros(2)}, 3).collapsed() == ["w1"]


def test_misfits_are_refused() -> None:
    masks = as_masks([torch.tensor([True, True, False])])
    scores = {"w0": torch.zeros(3)}
    for k in (-1, 3):
        with pytest.raises(ValueError, match=f"{k} of 2"):
            prune(masks, scores, k)
    with pytest.raises(ValueError, match="no scores for 'w0'"):
        prune(masks, {}, 1)
    for wrong in (torch.zeros(3, dtype=torch.float64), torch.zeros(2)):
        with pytest.raises(ValueError, match="'w0'"):
            prune(masks, {"w0": wrong}, 1)
    with pytest.raises(ValueError, match="fp32"):
        select([torch.zeros(2, dtype=torch.float16)], [torch.ones(2, dtype=torch.bool)], 1)


def test_counts_are_int64_from_the_first_sum_on() -> None:
    """Ranks whose histograms add up to more than 2^31 (and 2^32) elements."""
    scores = torch.tensor([1.0, 1.0, 2.0, 3.0])
    times = 3_000_000_000
    threshold = select([scores], [torch.ones(4, dtype=torch.bool)], 2 * times + 5, lambda histogram: histogram * times)
    assert (threshold.score, threshold.ties) == (2.0, 5)


@given(st.decimals(0, 1, places=9), st.integers(0, 10**12))
def test_exact_count_is_the_ceiling_of_the_decimal(fraction: Decimal, remaining: int) -> None:
    assert exact_count(float(fraction), remaining) == math.ceil(Fraction(fraction) * remaining)


def test_exact_count_where_binary_fractions_err() -> None:
    assert exact_count(0.2, 5) == 1
    assert math.ceil(Fraction(0.2) * 5) == 2  # what it would be with the double nearest to 0.2
    assert exact_count(0.1, 10**15) == 10**14
    assert exact_count(1e-5, 100_001) == 2
    assert (exact_count(0.0, 7), exact_count(1.0, 7), exact_count(0.5, 0)) == (0, 7, 0)
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            exact_count(fraction, 1)
    with pytest.raises(ValueError, match="remaining"):
        exact_count(0.5, -1)


@pytest.mark.parametrize("total", [11_678_912, 19_051_712, 21_779_648])
def test_imp_levels_reach_the_published_sparsities(total: int) -> None:
    """E-LTH: 20 % of the remaining a level; six levels on ImageNet are 73.79 %, ten and sixteen 89.3 and 97.2."""
    kept, sparsity = total, []
    for level in range(1, 17):
        kept -= exact_count(0.2, kept)
        assert abs(kept - total * 0.8**level) < 5  # the ceilings of all levels together
        sparsity.append(100 * (1 - kept / total))
    assert [round(sparsity[level - 1], 2) for level in (5, 6)] == [67.23, 73.79]
    assert [round(sparsity[level - 1], 1) for level in (8, 10, 13, 16)] == [83.2, 89.3, 94.5, 97.2]


def test_imp_on_weights_of_normal_values_prunes_exactly_as_many() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(shape, generator=generator) for i, shape in enumerate([(64, 32, 3, 3), (10, 512)])}
    masks = Masks.dense({name: weight.shape for name, weight in weights.items()})
    for _ in range(6):
        k = exact_count(0.2, masks.kept)
        pruned = prune(masks, magnitude(weights), k, identity, identity)
        assert pruned.kept == masks.kept - k
        assert all((new <= old).all() for new, old in zip(pruned.values(), masks.values(), strict=True))
        masks = pruned
    assert round(1 - masks.density, 3) == 0.738
