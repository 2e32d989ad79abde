"""What is saved comes back as it was, or not at all."""

import contextlib
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from elth_dist.runtime.states import CorruptFileError, load_state, save_state


def _same(first: Any, second: Any) -> bool:
    """Equal in value, type, key order, dtype, shape and strides; NaN equals NaN."""
    if type(first) is not type(second):
        return False
    match first:
        case Tensor():
            return (
                first.dtype == second.dtype
                and first.shape == second.shape
                and first.stride() == second.stride()
                and torch.equal(first.nan_to_num(), second.nan_to_num())
            )
        case dict():
            return list(first) == list(second) and all(
                type(a) is type(b) and _same(first[a], second[b]) for a, b in zip(first, second, strict=True)
            )
        case list() | tuple():
            return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))
        case float():
            return (first != first and second != second) or repr(first) == repr(second)
        case _:
            return bool(first == second)


def _round_trip(tree: Any, folder: Path) -> Any:
    path = folder / "state.safetensors"
    save_state(path, tree)
    return load_state(path)


_tensors = st.sampled_from(
    [
        torch.tensor(2.5),
        torch.tensor(True),
        torch.arange(6).reshape(2, 3),
        torch.arange(6.0).reshape(2, 3).t(),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.tensor([True, False]),
        torch.empty(0, 3),
        torch.tensor([float("nan"), -0.0], dtype=torch.bfloat16),
    ]
)
_plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4)
_trees = st.recursive(
    _plain | _tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_trees)
def test_any_tree_survives(tree: Any, tmp_path: Path) -> None:
    assert _same(_round_trip(tree, tmp_path), tree)


def test_an_optimizer_goes_on_where_it_was(tmp_path: Path) -> None:
    def train(steps: int, state: Any = None) -> tuple[list[Tensor], Any]:
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        if state is not None:
            net.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.ones(1, 3, 5, 5)).square().sum().backward()
            optimizer.step()
        weights = [parameter.detach() for parameter in net.parameters()]
        return weights, {"net": net.state_dict(), "optimizer": optimizer.state_dict()}

    straight, _ = train(5)
    _, state = train(3)
    restored = _round_trip(state, tmp_path)
    assert list(restored["optimizer"]["state"]) == [0, 1]
    resumed, _ = train(2, restored)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_random_state_of_python_survives(tmp_path: Path) -> None:
    generator = random.Random(5)
    restored = random.Random()
    restored.setstate(_round_trip(generator.getstate(), tmp_path))
    assert [restored.random() for _ in range(3)] == [generator.random() for _ in range(3)]


def test_numpy_scalars_become_pythons(tmp_path: Path) -> None:
    tree = {"a": np.float64(0.1), "b": np.int64(7), "c": np.bool_(True), "d": np.float32(0.5)}
    assert _same(_round_trip(tree, tmp_path), {"a": 0.1, "b": 7, "c": True, "d": 0.5})


def test_strides_of_dense_tensors_are_kept_and_others_become_contiguous(tmp_path: Path) -> None:
    base = torch.randn(8, 3, 4, 4)
    channels_last = base.contiguous(memory_format=torch.channels_last)
    tree = {
        "channels_last": channels_last,
        "1x1": torch.randn(4, 1, 1, 1).contiguous(memory_format=torch.channels_last),
        "permuted": base.permute(3, 1, 0, 2),
        "sliced": channels_last[:, 1:],
        "expanded": torch.ones(1, 3).expand(4, 3),
    }
    restored = _round_trip(tree, tmp_path)
    for name, tensor in tree.items():
        assert torch.equal(restored[name], tensor), name
        kept = name not in ("sliced", "expanded")
        assert restored[name].stride() == (tensor.stride() if kept else tensor.contiguous().stride()), name


def test_shared_tensors(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    storage = torch.arange(10.0)
    restored = _round_trip({"in": tied, "out": [tied], "a": storage[:5], "b": storage[3:]}, tmp_path)
    assert restored["in"] is restored["out"][0]
    assert torch.equal(restored["a"], storage[:5])
    assert torch.equal(restored["b"], storage[3:])
    restored["a"].zero_()
    assert restored["b"][0] == 3, "views are stored apart"


def test_keys_that_spell_alike(tmp_path: Path) -> None:
    tree = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, 1: torch.tensor(3), "1": torch.tensor(4)}
    assert _same(_round_trip(tree, tmp_path), tree)
    disguised = {"tensor": "x", "dict": [["a", 1]], "float": "nan", "tuple": [], "bytes": "y"}
    assert _same(_round_trip(disguised, tmp_path), disguised)


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"a": [0, {1, 2}]}, "set at /a/1"),
        ({"a": {(1, 2): 3}}, r"key \(1, 2\) at /a"),
        ({True: 1}, "key True at /"),
        (object(), "object at /"),
    ],
)
def test_what_cannot_be_saved_is_named(tree: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=where):
        save_state(tmp_path / "state", tree)
    assert not (tmp_path / "state").exists()


def test_a_full_disk_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        save_state(Path("/dev/full"), {"a": torch.zeros(1000)})


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.arange(10.0), "b": [1, 2.5, "x"]})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match="state"):
            load_state(path)
    path.write_bytes(whole)
    load_state(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_clear_error_or_a_tree(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "state"
    tree = {"a": torch.ones(2, 3).t(), "b": [1, (2.5, None)], "c": b"xy", "d": {0: torch.zeros(1)}, "e": math.inf}
    save_state(path, tree)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(CorruptFileError):  # any other exception fails the test
        load_state(path)


def _write_foreign_safetensors(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def _write_other_kind(path: Path) -> None:
    text = json.dumps({"format": "ticket", "version": 1})
    save_file({"weight": torch.zeros(2)}, path, metadata={"elth_dist": text})


def _write_bad_tree(path: Path) -> None:
    text = json.dumps({"format": "state", "version": 1, "tree": {"tensor": "/missing"}})
    save_file({"weight": torch.zeros(2)}, path, metadata={"elth_dist": text})


def _write_bomb(path: Path) -> None:
    text = json.dumps({"format": "state", "version": 1, "tree": 0}).replace("0", "[" * 100_000 + "]" * 100_000)
    save_file({"weight": torch.zeros(2)}, path, metadata={"elth_dist": text})


def _write_out_of_bounds(path: Path) -> None:
    tree = {"tensor": "/a", "size": [1000, 1000], "stride": [1, 1000]}
    save_file(
        {"/a": torch.zeros(2)},
        path,
        metadata={"elth_dist": json.dumps({"format": "state", "version": 1, "tree": tree})},
    )


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap-sprung"),))


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Trap()))


def _write_torch_pickle(path: Path) -> None:
    torch.save(_Trap(), path)


@pytest.mark.parametrize(
    "write",
    [
        _write_foreign_safetensors,
        _write_other_kind,
        _write_bad_tree,
        _write_bomb,
        _write_out_of_bounds,
        _write_pickle,
        _write_torch_pickle,
    ],
)
def test_foreign_files_are_refused_and_no_pickle_runs(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "state")
    with pytest.raises(CorruptFileError, match="state"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "trap-sprung").exists()


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "state")
