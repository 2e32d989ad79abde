"""Store a tree of tensors and plain values in one safetensors file, for checkpoints. Nothing is pickled."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_METADATA_KEY = "elth_dist"
_FORMAT = "state"
_VERSION = 1


class CorruptFileError(Exception):
    """A file is truncated, damaged, or not of the expected kind. The message names it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


def save_state(path: Path, tree: Any) -> None:
    """Write `tree` durably to `path`, in place: for an atomic write, rename the file afterwards.

    Args:
        tree: dicts (keys str or int, order kept), lists and tuples of tensors, bytes, str, bool, int, float (NaN and
            infinities too) and None, nested at will. NumPy scalars become Python's. A tensor that occurs several times
            is stored once and is one tensor again after loading; different views of one storage are stored apart.
            Strides of dense tensors (channels_last, transposed) are kept; others (expanded, sliced) become contiguous.

    Raises:
        TypeError: the tree holds anything else; names its place in the tree.
        OSError: the file could not be written completely.
    """
    writer = _Writer()
    text = json.dumps(
        {"format": _FORMAT, "version": _VERSION, "tree": writer.encode(tree, "")}, sort_keys=True, allow_nan=False
    )
    data = save(
        writer.tensors, metadata={_METADATA_KEY: text}
    )  # save_file() would make a file that only its owner can read
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote, with every tensor on the CPU in its own memory.

    Raises:
        CorruptFileError: the file is truncated, damaged or was not written by `save_state`.
        FileNotFoundError: the file does not exist.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(_METADATA_KEY)
            if metadata is None:
                raise CorruptFileError(path, "is a safetensors file, but not a saved state of elth_dist")
            state = json.loads(metadata)
            if (state["format"], state["version"]) != (_FORMAT, _VERSION):
                raise CorruptFileError(
                    path, f"holds {state['format']} version {state['version']}, not {_FORMAT} {_VERSION}"
                )
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _decode(state["tree"], tensors, {})
    except SafetensorError as error:
        raise CorruptFileError(path, f"is not a complete safetensors file ({error})") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise CorruptFileError(path, f"is damaged ({type(error).__name__}: {error})") from error


def copy_into(live: Mapping[Any, Tensor], saved: Mapping[Any, Tensor]) -> None:
    """Copy loaded tensors into the live tensors of the same keys, which keep their device, strides and aliases."""
    assert live.keys() == saved.keys(), f"state holds {sorted(saved)}, expected {sorted(live)}"
    for name, tensor in live.items():
        tensor.copy_(saved[name])


class _Writer:
    """Turn a tree into JSON whose objects each have one key, their kind, so that kinds cannot be confused."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, tuple[Tensor, Any]] = {}  # the tensor itself too: an id is unique only while it lives
        self._storages: set[int] = set()

    def encode(self, value: Any, where: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        match value:
            case None | bool() | int() | str():
                return value
            case float():
                return value if math.isfinite(value) else {"float": repr(value)}
            case bytes() | bytearray():
                stored = (
                    torch.frombuffer(bytearray(value), dtype=torch.uint8)
                    if value
                    else torch.empty(0, dtype=torch.uint8)
                )
                return {"bytes": self._store(stored, where)}
            case Tensor():
                if id(value) not in self._seen:
                    self._seen[id(value)] = (value, self._encode_tensor(value, where))
                return self._seen[id(value)][1]
            case list():
                return [self.encode(item, f"{where}/{index}") for index, item in enumerate(value)]
            case tuple():
                return {"tuple": [self.encode(item, f"{where}/{index}") for index, item in enumerate(value)]}
            case dict():
                for key in value:
                    if type(key) not in (str, int):
                        raise TypeError(f"a state cannot hold the key {key!r} at {where or '/'}: neither str nor int")
                return {"dict": [[key, self.encode(item, f"{where}/{key}")] for key, item in value.items()]}
            case _:
                raise TypeError(f"a state cannot hold a {type(value).__name__} at {where or '/'}")

    def _encode_tensor(self, tensor: Tensor, where: str) -> dict[str, Any]:
        own = tensor.detach().cpu()
        if own.is_contiguous() or not _is_dense(own):
            return {"tensor": self._store(own.contiguous(), where)}
        in_memory_order = own.as_strided((own.numel(),), (1,))
        return {"tensor": self._store(in_memory_order, where), "size": list(own.shape), "stride": list(own.stride())}

    def _store(self, tensor: Tensor, where: str) -> str:
        storage = tensor.untyped_storage().data_ptr()
        if tensor.numel() and storage in self._storages:
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = where or "/"
        while name in self.tensors:  # keys may contain slashes, and 1 and "1" are two keys
            name += "'"
        self.tensors[name] = tensor
        return name


def _decode(value: Any, tensors: dict[str, Tensor], made: dict[str, Tensor]) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_decode(item, tensors, made) for item in value]
        case {"dict": list(items)}:
            return {key: _decode(item, tensors, made) for key, item in items}
        case {"tuple": list(items)}:
            return tuple(_decode(item, tensors, made) for item in items)
        case {"float": str(text)}:
            return float(text)
        case {"bytes": str(name)}:
            return tensors[name].numpy().tobytes()
        case {"tensor": str(name), "size": list(size), "stride": list(stride)}:
            if name not in made:
                made[name] = tensors[name].as_strided(size, stride)
            return made[name]
        case {"tensor": str(name)}:
            return tensors[name]
        case _:
            raise ValueError("an entry of unknown kind")


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether the elements fill contiguous memory without gap or overlap, in any order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
