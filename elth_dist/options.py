"""The base of all options: strict validation, steps written as text, and the identity of a result."""

import re
from abc import ABC, abstractmethod
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from elth_dist.plugins import plugin_of

#: ``Field(..., json_schema_extra=NO_EFFECT)`` marks an option that cannot change a result (how often to log, ...) and
#: is therefore left out of a job's identity.
NO_EFFECT: JsonDict = {"affects_result": False}


class Options(BaseModel):
    """Base of every group of options: unknown names are errors, values are checked, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    #: Whether the class is a kind in a registry.
    registered: ClassVar[bool] = False

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, every option that can affect a result and differs from its default.

        Leaving out defaults keeps identities unchanged when an unrelated option is added later. (*Changing* a default
        changes what an identity means: see jobs.graph.) `name` and `kind`, which distinguish alternatives, are always
        included, and so are options without a default. Options of a plugin's kind include the plugin.
        """
        parts: dict[str, Any] = {}
        dumped = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            if not _affects_result(field):
                continue
            value = getattr(self, name)
            what = _identity(value, dumped[name])
            if name in ("name", "kind") or field.is_required() or not _is_default(value, what, field):
                parts[name] = what
        plugin = plugin_of(type(self).__module__) if self.registered else None
        return parts if plugin is None else {**parts, "plugin": plugin.to_json()}

    def resolved(self) -> dict[str, Any]:
        """Every option that can affect a result, defaults written out, as JSON values."""
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name, field in type(self).model_fields.items() if _affects_result(field)}


def _affects_result(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("affects_result") is False)


def _identity(value: Any, dumped: Any) -> Any:
    """Return a value as dumped, with all options in it replaced by their identities."""
    if isinstance(value, Options):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_identity(*pair) for pair in zip(value, dumped, strict=True)]
    if isinstance(value, dict):
        return {key: _identity(*pair) for key, *pair in zip(dumped, value.values(), dumped.values(), strict=True)}
    return dumped


def _is_default(value: Any, identity: Any, field: FieldInfo) -> bool:
    default = field.get_default(call_default_factory=True)
    if isinstance(value, Options) and isinstance(default, Options):
        return type(value) is type(default) and bool(identity == default.identity())
    return bool(value == default)


_STEP = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ep|it)")


class _Amount(ABC):
    """A number with a unit, written as text. Immutable: it can be the key of a dict."""

    __slots__ = ("amount", "unit")

    amount: Decimal
    unit: str

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Self:
        """Read one; ValueError if `value` is not one."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self.amount, self.unit) == (other.amount, other.unit)

    def __hash__(self) -> int:
        return hash((self.amount, self.unit))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=core_schema.to_string_ser_schema())


class Step(_Amount):
    """A point of a training, written as in the field: ``"5ep"`` (epochs), ``"1000it"`` (optimizer steps) or ``0``."""

    __slots__ = ()

    def __init__(self, amount: Decimal, unit: str) -> None:
        """`unit`: "ep" or "it"."""
        self.amount = amount.normalize()  # 1.0ep is 1ep
        self.unit = unit if amount else "it"

    @classmethod
    def parse(cls, value: "str | int | Step") -> Self:
        """Read a step; ValueError if `value` is not one."""
        if isinstance(value, cls):
            return value
        text = value.strip() if isinstance(value, str) else value
        if text == "0" or (text == 0 and not isinstance(text, bool)):
            return cls(Decimal(0), "it")
        match = _STEP.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not a step: write '5ep' (epochs), '1000it' (iterations) or 0")
        amount = Decimal(match[1])
        if match[2] == "it" and amount != int(amount):
            raise ValueError(f"{value!r}: iterations are whole numbers")
        return cls(amount, match[2])

    def iterations(self, steps_per_epoch: int) -> int:
        """Convert to optimizer steps, rounded to the nearest, halves up."""
        if self.unit == "it":
            return int(self.amount)
        return int((self.amount * steps_per_epoch).to_integral_value(ROUND_HALF_UP))

    def times(self, factor: int) -> "Step":
        """Return the corresponding point of a training `factor` times as long."""
        return Step(self.amount * factor, self.unit)

    def __str__(self) -> str:
        return "0" if self.amount == 0 else f"{self.amount:f}{self.unit}"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        written = {"type": "string", "pattern": f"^({_STEP.pattern}|0)$", "examples": ["5ep", "1000it"]}
        return {"anyOf": [written, {"const": 0}]}


_SPACING = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ep|%)")


class Spacing(_Amount):
    """A distance between two steps of a training: ``"0.5ep"`` (epochs) or ``"2.5%"`` (of the training's steps)."""

    __slots__ = ()

    def __init__(self, amount: Decimal, unit: str) -> None:
        """`unit`: "ep" or "%"."""
        self.amount = amount.normalize()
        self.unit = unit

    @classmethod
    def parse(cls, value: "str | Spacing") -> Self:
        """Read a spacing; ValueError if `value` is not one."""
        if isinstance(value, cls):
            return value
        match = _SPACING.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not an interval: write 100 (optimizer steps), '0.5ep' (epochs) or '2.5%'")
        amount = Decimal(match[1])
        if not amount or (match[2] == "%" and amount > 100):
            raise ValueError(f"{value!r}: an interval is above 0 and at most 100% of the training")
        return cls(amount, match[2])

    def steps(self, total_steps: int, steps_per_epoch: int) -> int:
        """Convert to optimizer steps, rounded to the nearest, halves up; at least 1."""
        whole = steps_per_epoch if self.unit == "ep" else Decimal(total_steps) / 100
        return max(1, int((self.amount * whole).to_integral_value(ROUND_HALF_UP)))

    def __str__(self) -> str:
        return f"{self.amount:f}{self.unit}"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({_SPACING.pattern})$", "examples": ["0.5ep", "2.5%"]}
