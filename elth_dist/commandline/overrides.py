"""`--section.option value` from a command line, as nested sections, and how sections lie over one another."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from elth_dist.commandline.mistakes import explain_section, no_such_option
from elth_dist.commandline.parser import Parser
from elth_dist.commandline.tree import Form, Option, forms, is_section, options, sections
from elth_dist.commandline.values import read_text
from elth_dist.errors import UserError
from elth_dist.registry import OneOf


class Overrides(dict[str, Any]):
    """Nested sections of options from a command line, and each value as it was typed, by the option's name."""

    def __init__(self) -> None:
        super().__init__()
        self.typed: dict[str, str] = {}


def read_overrides(arguments: Sequence[str], model: type[BaseModel], base: Mapping[str, Any]) -> Overrides:
    """Read options and their values; whether the values are valid is for the model to say.

    Args:
        arguments: `--section.option value` or `--section.option=value`; a later one of the same name counts.
        model: the class of all options.
        base: what the file says; the kinds that it chooses decide which options a typing mistake may have meant.

    Raises:
        UserError: an option that does not exist, with the nearest that does; or one without a value.
    """
    known = {option.name: option for option in options([model]) if not option.in_list}
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for name in known:
        parser.add_argument(f"--{name}", dest=name)
    typed, unknown = parser.parse_known_args(arguments)
    given = {name: text for name, text in vars(typed).items() if isinstance(text, str)}
    overrides = Overrides()
    overrides.typed = given
    sections_first = sorted(given, key=lambda name: (not _is_whole(known[name]), _depth(name)))
    for name in (name for name in sections_first if _is_whole(known[name]) or name.endswith(".name")):
        _put(overrides, name, _read(name, given[name], known[name].forms))
    chosen = merge(base, overrides, [model])
    if unknown:
        raise UserError(no_such_option(unknown, model, chosen))
    for option in [*known.values(), *options([model], chosen)]:  # the chosen kinds' own forms come last
        if option.name in given and not option.in_list and not _is_whole(option):
            _put(overrides, option.name, _read(option.name, given[option.name], option.forms))
    return overrides


def _is_whole(option: Option) -> bool:
    return any(is_section(form) or isinstance(form, OneOf) for form in option.forms)


def _depth(name: str) -> int:
    return name.count(".")


def _read(name: str, text: str, accepted: Sequence[Form]) -> Any:
    try:
        value = read_text(text, accepted)
    except ValueError as error:
        raise UserError(f"{name}: {text!r} cannot be read: {error}") from None
    if isinstance(value, str):
        if any(isinstance(form, OneOf) for form in accepted):
            return {"name": value}
        if section := next((form for form in accepted if is_section(form)), None):
            raise UserError(explain_section(name, section, value))
    return value


def _put(nested: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        inner = nested.setdefault(part, {})
        if not isinstance(inner, dict):  # null, with options of it
            inner = nested[part] = {}
        nested = inner
    nested[last] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Sections of options with others over them. A kind that replaces another takes over none of its options.

    Args:
        base: below.
        over: on top.
        models: the classes whose options these are, alternatives if there are several.
    """
    merged = dict(base)
    for name, value in over.items():
        accepted = [form for model in models if name in model.model_fields for form in forms(model.model_fields[name])]
        merged[name] = _merge_values(merged.get(name), value, accepted)
    return merged


def _merge_values(base: Any, over: Any, accepted: Sequence[Form]) -> Any:
    one_of = [form for form in accepted if isinstance(form, OneOf)]
    if one_of:
        base, over = ({"name": value} if isinstance(value, str) else value for value in (base, over))
        if isinstance(base, Mapping) and isinstance(over, Mapping):
            replaced = over.get("name") not in (None, base.get("name"))
            if replaced and not any(form.alike for form in one_of):
                return dict(over)
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    named = {**base, **over}
    return merge(base, over, [model for form in accepted for model in sections(form, named)])
