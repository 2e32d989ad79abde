"""The text of --help: of a run in general, or of the method that the command line or the file names."""

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from elth_dist.commandline.tree import elements, forms, is_section, name_in, sections
from elth_dist.commandline.values import placeholder, show
from elth_dist.registry import OneOf

_PROGRAM = "python -m elth_dist.train"
_COMMANDS = (
    ("--config FILE", "YAML file with sections of options; the command line goes over it"),
    ("--print-config", "print the resolved configuration, which --config reads back, and stop"),
    ("--help", "print this; with --config FILE or --method METHOD: the options of that method"),
)
_VALUES = (
    ("values", "--train.lr 0.1 or --train.lr=0.1; null, true and false as in YAML; steps as 5ep, 1000it or 0"),
    ("lists", "--train.milestones 80ep,120ep or '[80ep, 120ep]'; an empty one is '[]'"),
    ("with options", "--method.controls 'random,{name: rigl, delta_t: 50}'"),
    ("whole sections", "--model '{arch: resnet18, init: torchvision}'; --method rigl is --method.name rigl"),
)
_EXAMPLES = (
    "torchrun --standalone --nproc-per-node 2 -m elth_dist.train --config configs/quickstart.yaml",
    "torchrun --nproc-per-node 8 -m elth_dist.train --config configs/imagenet/resnet26_imp.yaml --data.root DIR",
    f"{_PROGRAM} --config configs/quickstart.yaml --method dpf --method.density 0.1 --run.dir runs/dpf",
    f"{_PROGRAM} --method dpf --help",
)


def help_text(model: type[BaseModel], given: Mapping[str, Any]) -> str:
    """Describe the options of a class.

    Args:
        model: the class of all options.
        given: values, of which the names of kinds count: with a method's name, the text is about that method.
    """
    name = name_in(given.get("method"))
    chosen = [form for form in forms(model.model_fields["method"]) if isinstance(form, OneOf) and name in form.kinds()]
    lines = list(_of_kind("method", chosen[0], str(name)) if chosen else _in_general(model, given))
    return "\n".join(lines) + "\n"


def _in_general(model: type[BaseModel], given: Mapping[str, Any]) -> Iterator[str]:
    yield f"usage: {_PROGRAM} [--config FILE] [--SECTION.OPTION VALUE ...]"
    yield ""
    yield "Find, transfer and train lottery tickets on all devices that torchrun names."
    yield ""
    yield from _rows(_COMMANDS)
    plain = {name: field for name, field in model.model_fields.items() if not _inner(field)}
    yield from _fields(plain, "")
    for name, field in model.model_fields.items():
        kinds = [form for form in forms(field) if isinstance(form, OneOf)]
        value = given.get(name)
        for one_of in kinds:
            chosen = name_in(value)
            if chosen in one_of.kinds() and name != "method":
                yield from _of_kind(name, one_of, str(chosen), usage=False)
            else:
                yield from _kinds(name, one_of, field)
        for section in [] if kinds else _inner(field):
            yield ""
            yield f"{name}: {field.description or _summary(section)}"
            yield from _fields(section.model_fields, f"{name}.")
            for option, part in section.model_fields.items():
                yield from _described_kinds(f"{name}.{option}", part)
    yield ""
    yield "How to write values:"
    yield from _rows(_VALUES)
    yield ""
    yield "Examples:"
    yield from (f"  {example}" for example in _EXAMPLES)


def _of_kind(section: str, one_of: OneOf, name: str, *, usage: bool = True) -> Iterator[str]:
    """One kind with its own options and defaults."""
    kind = one_of.kinds()[name]
    if usage:
        yield f"usage: {_PROGRAM} [--config FILE] --{section} {name} [--{section}.OPTION VALUE ...]"
    yield ""
    yield f"{section} {name}: {_summary(kind)}"
    own = {option: field for option, field in kind.model_fields.items() if option != "name"}
    yield from _fields(own, f"{section}.", defaults=_defaults(kind))
    for option, field in own.items():
        yield from _described_parts(f"{section}.{option}", field)
    if usage:
        yield ""
        yield f"Options of all other sections, how to write values, and examples: {_PROGRAM} --help"


def _described_parts(option: str, field: FieldInfo) -> Iterator[str]:
    """What lies in an option: its sections, or its lists' elements."""
    for form in forms(field):
        for section in sections(form) if is_section(form) else []:
            yield ""
            yield f"{option}: {_summary(section)}"
            yield from _fields(section.model_fields, f"{option}.")
        for part in elements(form):
            if is_section(part):
                yield ""
                yield f"each of {option}: {_summary(part)}"
                yield from _fields(part.model_fields, "", dashes="")
            elif isinstance(part, OneOf):
                yield ""
                yield f"each of {option}: the name of {_a(part.what)}, or {{name: NAME, OPTION: VALUE}}"
                yield from _rows(_alternatives(part, with_options=True))


def _described_kinds(option: str, field: FieldInfo) -> Iterator[str]:
    """What an option can name."""
    for form in forms(field):
        if isinstance(form, OneOf):
            yield ""
            yield f"{option}: the name of {_a(form.what)}, or {{name: NAME, OPTION: VALUE}}"
            yield from _rows(_alternatives(form, with_options=True))


def _kinds(section: str, one_of: OneOf, field: FieldInfo) -> Iterator[str]:
    yield ""
    yield f"{section}: {field.description or one_of.what}; --{section} NAME --help shows the options of one"
    yield from _rows(_alternatives(one_of, with_options=False))


def _alternatives(one_of: OneOf, *, with_options: bool) -> Iterator[tuple[str, str]]:
    by_class: dict[type[BaseModel], list[str]] = {}
    kind: type[BaseModel]
    for name, kind in one_of.kinds().items():
        by_class.setdefault(kind, []).append(name)
    for kind, names in by_class.items():
        own = [f"{name} {_value(field)}".strip() for name, field in kind.model_fields.items() if name != "name"]
        listed = f" Options: {', '.join(own)}." if own and with_options else ""
        yield ", ".join(names), f"{_summary(kind)}{listed}"


def _defaults(kind: type[BaseModel]) -> dict[str, str]:
    """The defaults of a kind that fills in values of its own, such as a dataset its image size; by option."""
    try:
        filled = kind()
    except ValidationError:  # an option is required: no values without it
        return {}
    return {name: f"default: {show(getattr(filled, name))}" for name in kind.model_fields}


def _fields(
    fields: Mapping[str, FieldInfo], prefix: str, *, dashes: str = "--", defaults: Mapping[str, str] | None = None
) -> Iterator[str]:
    rows = []
    for name, field in fields.items():
        accepted = forms(field)
        left = f"{dashes}{prefix}{name} {placeholder(accepted)}"
        default = "required" if field.is_required() else (defaults or {}).get(name) or f"default: {_default(field)}"
        rows.append((left, f"{field.description or ''} ({default})".strip()))
    yield from _rows(rows)


def _value(field: FieldInfo) -> str:
    """An option's default behind its name; nothing if it has none."""
    return "" if field.is_required() else _default(field)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if value is PydanticUndefined else show(value)


def _inner(field: FieldInfo) -> list[type[BaseModel]]:
    return [section for form in forms(field) for section in sections(form)]


def _summary(kind: type[BaseModel]) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _rows(rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> Iterator[str]:
    """Two columns, the right one wrapped to the terminal."""
    width = min(shutil.get_terminal_size().columns, 110)
    indent = 26
    for left, right in rows:
        text = textwrap.wrap(right, max(width - indent, 30)) or [""]
        if len(left) + 4 > indent:
            yield f"  {left}"
        else:
            yield f"  {left:<{indent - 2}}{text.pop(0)}"
        yield from (" " * indent + line for line in text)


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
