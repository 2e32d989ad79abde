"""Registries of kinds by name: criteria, mask updates, methods, families and so on. No torch here.

A kind is one class in one file that registers itself with `@REGISTRY.add`, as a plugin's kind does; options, help and
error messages then know it. No other code switches on kinds.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from elth_dist.errors import UserError
from elth_dist.options import Options

_Kind = TypeVar("_Kind")


class Registry(Mapping[str, _Kind], Generic[_Kind]):
    """Kinds of one thing, by name, in the order in which they were registered."""

    def __init__(self, what: str) -> None:
        """`what`: the noun for a kind in messages: "criterion", "mask update", ..."""
        self.what = what
        self._kinds: dict[str, _Kind] = {}

    def add(self, kind: _Kind) -> _Kind:
        """Register a kind under its `name`. Usable as a decorator.

        Raises:
            UserError: another kind has that name.
        """
        name = name_of(kind)
        known = self._kinds.get(name)
        if known is not None and _origin(known) != _origin(kind):
            raise UserError(f"{self.what} {name!r} is registered twice: by {_origin(known)} and by {_origin(kind)}")
        self._kinds[name] = kind
        if isinstance(kind, type) and issubclass(kind, Options):
            kind.registered = True
        return kind

    def __getitem__(self, name: str) -> _Kind:
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


def name_of(kind: Any) -> str:
    """Return the name of a kind: its attribute `name`, or the default of its option `name`."""
    fields = getattr(kind, "__pydantic_fields__", {})
    name = fields["name"].default if "name" in fields else getattr(kind, "name", None)
    assert isinstance(name, str), f"{kind!r} has no name"
    return name


def _origin(kind: Any) -> str:
    owner = kind if isinstance(kind, type) else type(kind)
    return f"{owner.__module__}.{owner.__qualname__}"


def joined(what: str, *groups: Mapping[str, type[Options]]) -> dict[str, type[Options]]:
    """Kinds of several registries under one name each. UserError if two of them have the same name."""
    kinds: dict[str, type[Options]] = {}
    for group in groups:
        for name, kind in group.items():
            if name in kinds:
                raise UserError(
                    f"{what} {name!r} is registered twice: by {_origin(kinds[name])} and by {_origin(kind)}"
                )
            kinds[name] = kind
    return kinds


def load_folder(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that its kinds register: a new kind needs only a new file."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


class OneOf:
    """A pydantic annotation for options of any registered kind, chosen by `name`; a name alone means its defaults.

    Kinds are looked up when a value is validated, so that a kind registered later is valid too.
    """

    def __init__(self, what: str, kinds: Callable[[], Mapping[str, type[Options]]], *, alike: bool = False) -> None:
        """
        Args:
            what: the noun for a kind in messages.
            kinds: option classes by name.
            alike: whether kinds share their options, so that values given for one serve another.
        """
        self.what = what
        self.kinds = kinds
        self.alike = alike

    def read(self, value: Any) -> Options:
        """Validate a value as options of its kind; raises pydantic's errors."""
        if isinstance(value, Options):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "kind_form", "must be one {what}: a name, or an object with name and options", {"what": self.what}
            )
        kinds = self.kinds()
        name = value.get("name")
        context = {"what": self.what, "valid": ", ".join(kinds)}
        if name is None:
            raise PydanticCustomError("kind_missing", "is required; valid are {valid}", context)
        if not isinstance(name, str) or name not in kinds:
            near = difflib.get_close_matches(str(name), kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            context |= {"name": repr(name), "hint": hint}
            raise PydanticCustomError("kind_unknown", "unknown {what} {name}{hint}; valid are {valid}", context)
        return kinds[name].model_validate(dict(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def write(value: Options, info: core_schema.SerializationInfo) -> dict[str, Any]:
            return value.model_dump(mode=info.mode)

        serialization = core_schema.plain_serializer_function_ser_schema(write, info_arg=True)
        return core_schema.no_info_plain_validator_function(self.read, serialization=serialization)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        named = {"type": "string", "enum": list(self.kinds())}
        return {"anyOf": [named, *(kind.model_json_schema() for kind in self.kinds().values())]}


#: Criteria, which score weights for pruning; classes of options derived from sparsity.criteria.Criterion.
criteria: Registry[type[Any]] = Registry("criterion")
#: Mask updates, which change masks while a network trains; derived from sparsity.updates.MaskUpdate.
updates: Registry[type[Any]] = Registry("mask update")
#: Methods, which plan the jobs of a run; derived from jobs.methods.Method.
methods: Registry[type[Any]] = Registry("method")
#: Controls, the experiments that a ticket is compared with; derived from jobs.controls.Control.
controls: Registry[type[Any]] = Registry("control")
#: Job kinds; derived from jobs.kinds.JobKind.
job_kinds: Registry[type[Any]] = Registry("job kind")
#: Networks; objects derived from models.Family.
families: Registry[Any] = Registry("family")
#: Optimizers; classes of options derived from training.optimizers.Optimizer.
optimizers: Registry[type[Any]] = Registry("optimizer")
#: Datasets; classes of options derived from data.DataOptions.
datasets: Registry[type[Any]] = Registry("dataset")
#: Tables and figures of papers, which a report draws; classes derived from reporting.papers.PaperFigure.
paper_figures: Registry[type[Any]] = Registry("figure")
