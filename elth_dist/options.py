"""What the options of every part share: strictness, steps written as text, and what makes two runs the same."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

#: ``Field(..., json_schema_extra=NO_EFFECT)`` marks an option that cannot change a result (how often to log, ...):
#: it is left out of a job's identity.
NO_EFFECT: JsonDict = {"affects_result": False}


class Options(BaseModel):
    """Base of every group of options: unknown names are errors, values are checked, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """What determines a result: every option that differs from its default and can affect one.

        Leaving defaults out keeps identities stable when an unrelated option is added later.
        """
        found: dict[str, Any] = {}
        dumped = self.model_dump(mode="json", exclude_defaults=True)
        for name, field in type(self).model_fields.items():
            if _affects_result(field) and name in dumped:
                value = getattr(self, name)
                found[name] = value.identity() if isinstance(value, Options) else dumped[name]
            elif name == "name" or name == "kind":
                found[name] = getattr(self, name)
        return found


def _affects_result(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("affects_result") is False)


class Step:
    """A point of a training, written as in the field: ``"5ep"`` (epochs), ``"1000it"`` (optimizer steps) or ``0``."""

    __slots__ = ("amount", "unit")
    _PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ep|it)\s*$")

    def __init__(self, amount: Decimal, unit: str) -> None:
        self.amount = amount
        self.unit = unit

    @classmethod
    def parse(cls, value: "str | int | Step") -> Self:
        """Read a step; ValueError when it is none."""
        if isinstance(value, cls):
            return value
        if value in (0, "0"):
            return cls(Decimal(0), "it")
        match = cls._PATTERN.match(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is no step: write '5ep' (epochs), '1000it' (iterations) or 0")
        try:
            amount = Decimal(match[1])
        except InvalidOperation as error:  # pragma: no cover - the pattern admits decimals only
            raise ValueError(f"{value!r} is no step") from error
        if match[2] == "it" and amount != int(amount):
            raise ValueError(f"{value!r}: iterations are whole numbers")
        return cls(amount, match[2])

    def iterations(self, steps_per_epoch: int) -> int:
        """This point in optimizer steps (rounded to the nearest for a fraction of an epoch)."""
        if self.unit == "it":
            return int(self.amount)
        return int((self.amount * steps_per_epoch).to_integral_value())

    def __str__(self) -> str:
        return "0" if self.amount == 0 else f"{self.amount}{self.unit}"

    def __repr__(self) -> str:
        return f"Step({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema(), metadata={}
        )
