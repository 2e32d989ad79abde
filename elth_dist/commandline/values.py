"""Values of options as text: read from a command line, shown as a user would write them, described in words."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from pydantic import BaseModel

from elth_dist import yaml_files
from elth_dist.commandline.tree import Form, elements, forms, is_list, is_mapping, is_section, is_text, length, origin
from elth_dist.options import Spacing, Step
from elth_dist.registry import OneOf


def read_text(text: str, accepted: Sequence[Form]) -> Any:
    """Read a value that was typed for an option.

    Texts stay texts; numbers, booleans and null are as in YAML; lists are written as `a,b` or `[a, b]`, sections and
    kinds as `{name: value}`. What fits none of the forms stays as it is, for the options to refuse.

    Args:
        text: what was typed.
        accepted: the forms that the option accepts.

    Raises:
        ValueError: brackets or braces that YAML cannot read; says why.
    """
    first = text.lstrip()[:1]
    if NoneType in accepted and text in ("null", "~"):
        return None
    if first == "{" and any(map(is_mapping, accepted)):
        return yaml_files.read_value(text)
    texts = any(map(is_text, accepted))
    if any(map(is_list, accepted)):
        if first == "[":
            return yaml_files.read_value(text)
        if not texts and first != "(":
            return yaml_files.read_value(f"[{text}]")
    types = [kind for kind in (bool, int, float) if kind in accepted]
    if types:
        number = yaml_files.read_value(text)
        if isinstance(number, bool):
            return number if bool in types else text
        if isinstance(number, int | float):
            return number
    return text


def show(value: Any) -> str:
    """A value as a user would write it on a command line: `true`, `0.1`, `80ep,120ep`, `[]`."""
    plain = to_plain(value)
    if isinstance(plain, str):
        return plain
    if isinstance(plain, list) and plain and not any(isinstance(part, list | dict) for part in plain):
        return ",".join(map(show, plain))
    return yaml_files.write_value(plain) if isinstance(plain, list | dict) else _scalar(plain)


def quote(value: Any) -> str:
    """A value for a message: texts in quotes, everything else as in a YAML file."""
    plain = to_plain(value)
    if isinstance(plain, str):
        return repr(plain)
    return yaml_files.write_value(plain) if isinstance(plain, list | dict) else _scalar(plain)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return short if isinstance(value, float) and float(short := f"{value:g}") == value else str(value)


def to_plain(value: Any) -> Any:
    """A value made of lists, dicts, texts, numbers, booleans and None alone."""
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        name = getattr(value, "name", None)
        return given if name is None else name if given.keys() <= {"name"} else {"name": name, **given}
    if isinstance(value, dict):
        return {str(name): to_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def described(accepted: Sequence[Form]) -> str:
    """What an option accepts, in words: "a whole number", "one of ddp, deepspeed"."""
    words = [_described(form) for form in accepted if form is not NoneType]
    if NoneType in accepted:
        words.append("null")
    return ", or ".join(dict.fromkeys(words))


def _described(form: Form) -> str:
    if isinstance(form, OneOf):
        return f"a {form.what}: its name, or {{name: NAME, OPTION: VALUE}}"
    if is_section(form):
        return "options, such as {OPTION: VALUE}"
    if is_list(form):
        if (count := length(form)) is None:
            return "a list, such as a,b or [a, b]"
        return f"a list of {count}, such as {','.join(map(placeholder, _each(form)))}"
    if origin(form) is Literal:
        choices = [show(choice) for choice in get_args(form)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Decimal: "a number",
        str: "a text (numbers in quotes)",
        Path: "a path",
        Step: "a step: 5ep (epochs), 1000it (optimizer steps) or 0",
        Spacing: "an interval: 0.5ep (epochs) or 2.5% (of the training's steps)",
    }
    return names.get(form, "names with values, such as {NAME: VALUE}" if is_mapping(form) else "another value")


def placeholder(accepted: Sequence[Form]) -> str:
    """The placeholder of a value in help: "INTEGER", "ddp|deepspeed", "STEP,..."."""
    words = [_placeholder(form) for form in accepted if form is not NoneType]
    if NoneType in accepted:
        words.append("null")
    return "|".join(dict.fromkeys(words))


def _placeholder(form: Form) -> str:
    if isinstance(form, OneOf):
        return form.what.upper().replace(" ", "_")
    if is_section(form):
        required = [name for name, field in form.model_fields.items() if field.is_required()]
        return f"{{{required[0] if required else 'OPTION'}: ...}}"
    if is_list(form):
        if length(form) is None:
            part = placeholder(elements(form))
            return f"[{part},...]" if part[0] in "{[" or "," in part else f"{part},..."
        return ",".join(map(placeholder, _each(form)))
    if origin(form) is Literal:
        return "|".join(map(show, get_args(form)))
    names = {
        bool: "true|false",
        int: "INTEGER",
        float: "NUMBER",
        str: "TEXT",
        Path: "PATH",
        Step: "STEP",
        Spacing: "INTERVAL",
    }
    return names.get(form, "{NAME: ...}" if is_mapping(form) else "VALUE")


def _each(form: Form) -> list[list[Form]]:
    return [elements(form, place) for place in range(length(form) or 0)]


def leading_option(model: type[BaseModel]) -> str | None:
    """The option that a value alone is meant for: the first required one, or `name`; None if there is neither."""
    fields = model.model_fields
    required = [
        name for name, field in fields.items() if field.is_required() and not any(map(is_mapping, forms(field)))
    ]
    return required[0] if required else "name" if "name" in fields else None
