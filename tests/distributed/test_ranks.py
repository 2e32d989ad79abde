"""Collectives between real processes."""

import json
import time
from typing import Any

import pytest
import torch

from elth_dist.errors import DisagreementError, UserError
from elth_dist.runtime.launcher import launcher_ranks
from elth_dist.runtime.ranks import Ranks, open_ranks
from tests.helpers.ranks import RanksFailed, run_ranks


def _odd_layouts(rank: int) -> dict[str, torch.Tensor]:
    """Tensors whose memory order differs between ranks, with different values on each."""
    values = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5) + 1000 * rank
    channels_last = values.contiguous(memory_format=torch.channels_last)
    return {
        "layout differs": values if rank else channels_last,
        "sliced": (values.clone() if rank else channels_last.clone())[:, 1:, ::2],
        "scalar": torch.tensor(float(rank)),
        "empty": torch.empty(0, 3),
        "half": torch.full((3,), float(rank), dtype=torch.bfloat16),
        "double": torch.tensor([1.0 / (rank + 1)], dtype=torch.float64),
        "parameter": torch.nn.Parameter(torch.tensor([float(rank), 1.0])),
    }


def _tensors(ranks: Ranks) -> None:
    rank, size = ranks.rank, ranks.world_size
    everyone = [_odd_layouts(r) for r in range(size)]

    for name, tensor in _odd_layouts(rank).items():
        ranks.sum_(tensor)
        expected = torch.stack([theirs[name].detach() for theirs in everyone]).sum(0)
        assert torch.equal(tensor.detach(), expected), f"sum_ of {name}"
    counts = ranks.sum_(torch.tensor([rank, 2**40], dtype=torch.int64))
    assert counts.tolist() == [sum(range(size)), size * 2**40]

    own = _odd_layouts(rank)
    strides = {name: tensor.stride() for name, tensor in own.items()}
    ranks.average_(own.values())
    for name, tensor in own.items():
        expected = torch.stack([theirs[name].detach() for theirs in everyone]).sum(0) / size
        assert torch.equal(tensor.detach(), expected), f"average_ of {name}"
        assert tensor.stride() == strides[name], f"average_ moved {name}"
    ranks.average_([])
    with pytest.raises(AssertionError, match="int64 has no mean"):
        ranks.average_([torch.tensor([1])])

    own = _odd_layouts(rank) | {
        "bool": torch.tensor([rank == 0, False, True]),
        "bool scalar": torch.tensor(rank == 0),
        "integers": torch.tensor([rank, -5], dtype=torch.int64),
        "bytes": torch.full((7,), rank, dtype=torch.uint8),
        "turned": torch.full((2, 3), float(rank)).t(),
    }
    firsts = _odd_layouts(0) | {
        "bool": torch.tensor([True, False, True]),
        "bool scalar": torch.tensor(True),
        "integers": torch.tensor([0, -5]),
        "bytes": torch.zeros(7, dtype=torch.uint8),
        "turned": torch.zeros(3, 2),
    }
    ranks.broadcast_(own.values())
    for name, tensor in own.items():
        assert torch.equal(tensor.detach(), firsts[name].detach()), f"broadcast_ of {name}"


def _json(ranks: Ranks) -> None:
    value = {"rank": ranks.rank, "text": "ü" * (1000 * ranks.rank), "nested": [None, 1.5, {"a": []}]}
    assert [found["rank"] for found in ranks.gather_json(value)] == list(range(ranks.world_size))
    assert [len(found["text"]) for found in ranks.gather_json(value)] == [1000 * r for r in range(ranks.world_size)]
    assert ranks.broadcast_json(value | {"pair": (1, 2)} if ranks.is_main else None)["pair"] == [1, 2]
    assert ranks.gather_json((1, 2)) == [[1, 2]] * ranks.world_size
    ranks.barrier()
    flag = torch.tensor([ranks.rank])
    work = ranks.start_max(flag)
    assert work is not None
    work.wait()
    assert flag.item() == ranks.world_size - 1


def _disagree(ranks: Ranks) -> list[str]:
    hashes = {"conv1.weight": 2**64 - 1, "fc.weight": 7}
    ranks.require_equal("masks", hashes)
    messages = []
    cases: list[dict[str, int]] = [
        hashes | ({"fc.weight": 8} if ranks.rank in (1, 3) else {}),
        hashes | ({"conv1.weight": 2**64 - 2} if ranks.rank else {}),  # would be equal as float64
        hashes | ({"layer1.0.conv1.weight": 1} if ranks.rank == 2 else {}),
        {"fc.weight": 7} if ranks.rank == 1 else hashes,
    ]
    for case in cases:
        with pytest.raises(DisagreementError) as error:
            ranks.require_equal("masks", case)
        messages.append(str(error.value))
    ranks.require_equal("masks", hashes)
    return messages


def _together(ranks: Ranks) -> list[str]:
    messages = []
    for unlucky in ((2,), (1, 3), (0, 1, 2, 3)):
        with pytest.raises(UserError) as error:
            _stumble(ranks, ranks.rank in unlucky)
        messages.append(str(error.value))
        with ranks.together():
            pass
    return messages


def _stumble(ranks: Ranks, here: bool) -> None:
    with ranks.together():
        if here:
            raise UserError(f"data.root: rank {ranks.rank} cannot\nread it")


def _crash_in_together(ranks: Ranks) -> None:
    with ranks.together():
        if ranks.rank == 1:
            raise ValueError("a bug on rank 1")


def _die_with_a_collective_under_way(ranks: Ranks) -> None:
    work = ranks.start_max(torch.tensor([0]))
    if ranks.rank == 1:
        raise ValueError("a bug on rank 1")
    assert work is not None
    work.wait()
    ranks.sum_(torch.zeros(1))


@pytest.mark.parametrize("world_size", [2, 4])
def test_tensors_of_any_layout_and_dtype(world_size: int) -> None:
    run_ranks(_tensors, world_size)


def test_json() -> None:
    run_ranks(_json, 3)


def test_disagreement_names_tensor_and_ranks_on_every_rank() -> None:
    results = run_ranks(_disagree, 4)
    assert results[0].value == [
        "masks: fc.weight differs from rank 0's on rank 1, 3",
        "masks: conv1.weight differs from rank 0's on rank 1, 2, 3",
        "masks: rank 2 does not hold the same names as rank 0",
        "masks: conv1.weight differs from rank 0's on rank 1",
    ]
    assert all(result.value == results[0].value for result in results)


def test_a_users_mistake_on_any_rank_is_everyones() -> None:
    results = run_ranks(_together, 4)
    for result in results:
        assert result.value == [f"data.root: rank {first} cannot read it" for first in (2, 1, 0)]


@pytest.mark.parametrize("function", [_crash_in_together, _die_with_a_collective_under_way])
def test_nobody_waits_for_a_rank_that_crashed(function: Any) -> None:
    start = time.monotonic()
    with pytest.raises(RanksFailed) as failure:
        run_ranks(function, 3)
    assert time.monotonic() - start < 110, "the group's own limit is two minutes"
    results = failure.value.results
    assert [result.returncode for result in results] == [1, 1, 1]
    assert "ValueError: a bug on rank 1" in results[1].output
    assert "ValueError" not in results[0].output


def test_one_process_alone_sends_nothing() -> None:
    with open_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world_size, ranks.alone, ranks.is_main) == (0, 1, True, True)
        assert not torch.distributed.is_initialized()
        tensor = torch.tensor([3.0])
        assert ranks.sum_(tensor) is tensor
        ranks.average_([tensor])
        ranks.broadcast_([tensor])
        ranks.barrier()
        assert tensor.item() == 3
        assert ranks.gather_json((1,)) == [[1]]
        assert ranks.broadcast_json({1: "x"}) == json.loads('{"1": "x"}')
        assert ranks.start_max(torch.tensor([1])) is None
        ranks.require_equal("masks", {"a": 1})
        with pytest.raises(UserError, match="mistake"), ranks.together():
            raise UserError("mistake")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "RANK: 'x' is not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "2 is not below WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR or MASTER_PORT is not set"),
    ],
)
def test_a_broken_environment_is_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launcher_ranks() == (0, 1, 0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        launcher_ranks()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a host without GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"engine\.device: 'cuda'"), open_ranks("cuda"):
        pass
