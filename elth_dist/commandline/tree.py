"""Classes of options as a tree: which options there are, what each holds, where a value lies in it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from elth_dist.options import Spacing, Step
from elth_dist.registry import OneOf

#: One form of an option's value: a type, a class of options, or one of several kinds.
Form = Any


def origin(form: Form) -> Any:
    """The generic type of a form: tuple, dict, Literal, ...; None for a plain one."""
    return get_origin(form)


def forms(field: FieldInfo) -> list[Form]:
    """The forms that a field's value can have: the members of its union, or its only one."""
    kinds: list[Form] = [part for part in field.metadata if isinstance(part, OneOf)]
    return kinds or list(forms_of(field.annotation))


def forms_of(annotation: Any) -> Iterator[Form]:
    """As forms(), of an annotation."""
    generic = origin(annotation)
    if generic is Annotated:
        base, *metadata = get_args(annotation)
        kinds = [part for part in metadata if isinstance(part, OneOf)]
        yield from kinds or forms_of(base)
    elif generic in (Union, UnionType):
        for part in get_args(annotation):
            yield from forms_of(part)
    else:
        yield annotation


def is_section(form: Form) -> bool:
    """Whether a form is a class of options."""
    return isinstance(form, type) and issubclass(form, BaseModel)


def is_list(form: Form) -> bool:
    """Whether a form is a list."""
    return origin(form) in (tuple, list)


def is_mapping(form: Form) -> bool:
    """Whether a form has names for its parts."""
    return is_section(form) or isinstance(form, OneOf) or form is dict or origin(form) is dict


def is_text(form: Form) -> bool:
    """Whether a form is written as plain text."""
    if origin(form) is Literal:
        return all(isinstance(choice, str) for choice in get_args(form))
    return form in (str, Path, Step, Spacing)


def length(form: Form) -> int | None:
    """How many elements a list has; None: any number."""
    parts = get_args(form)
    return None if origin(form) is list or parts[-1:] == (...,) else len(parts)


def elements(form: Form, place: int = 0) -> list[Form]:
    """The forms of the element at a place of a list; none beyond its end or if the form is no list."""
    if not is_list(form):
        return []
    parts = get_args(form)
    if length(form) is None:
        return list(forms_of(parts[0]))
    return list(forms_of(parts[place])) if place < len(parts) else []


def name_in(value: Any) -> str | None:
    """The name of the kind that a value chooses, which may be that name alone; None if it chooses none."""
    name = value.get("name") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else None


def sections(form: Form, value: Any = None) -> list[type[BaseModel]]:
    """The classes of options that a form stands for: of several kinds the one that `value` names, or else all."""
    if is_section(form):
        return [form]
    if isinstance(form, OneOf):
        kinds, name = form.kinds(), name_in(value)
        return [kinds[name]] if name is not None and name in kinds else list(dict.fromkeys(kinds.values()))
    return []


@dataclass(frozen=True)
class Option:
    """One option by its dotted name."""

    name: str
    fields: tuple[FieldInfo, ...]  # one for each kind that has it
    in_list: bool = False  # inside the elements of a list: no option of the command line

    @property
    def forms(self) -> list[Form]:
        """The forms of its value, of all kinds that have it."""
        return _distinct(form for field in self.fields for form in forms(field))


def options(
    models: Sequence[type[BaseModel]], given: Any = None, prefix: str = "", in_list: bool = False
) -> Iterator[Option]:
    """All options of classes and of what lies in them, each once.

    Args:
        models: alternatives, such as all methods.
        given: values, of which only the names of kinds matter: they leave out the other kinds' options.
        prefix: put in front of each name.
        in_list: whether these are options of a list's elements.
    """
    fields: dict[str, list[FieldInfo]] = {}
    for model in models:
        for name, field in model.model_fields.items():
            fields.setdefault(name, []).append(field)
    for name, same in fields.items():
        option = Option(prefix + name, tuple(same), in_list)
        yield option
        value = given.get(name) if isinstance(given, Mapping) else None
        inner = _distinct(model for form in option.forms for model in sections(form, value))
        yield from options(inner, value, f"{option.name}.", in_list)
        listed = _distinct(model for form in option.forms for part in elements(form) for model in sections(part))
        yield from options(listed, None, f"{option.name}.", True)


def option_names(model: type[BaseModel], given: Any = None) -> Iterator[str]:
    """Dotted names of all options below a class, those in lists without their place; for `given` see options()."""
    for option in options([model], given):
        yield option.name


def locate(location: Sequence[int | str], model: type[BaseModel], given: Any) -> tuple[list[str], list[Form]]:
    """Find what pydantic calls a location.

    Returns:
        The option's path without the tags that pydantic puts behind unions, and the forms of the value there.
    """
    here: list[Form] = [model]
    value, path = given, []
    for part in location:
        below = [form for above in here for form in _step(above, part, value)]
        if below:
            here, value = below, _item(value, part)
            path.append(str(part))
    return path, _distinct(here)


def item_at(given: Any, path: Iterable[str]) -> Any:
    """The value at a path of names and places; None if there is none."""
    for part in path:
        given = _item(given, int(part) if isinstance(given, list | tuple) and part.isdecimal() else part)
    return given


def _step(form: Form, part: int | str, value: Any) -> list[Form]:
    if isinstance(part, int):
        return elements(form, part)
    if origin(form) is dict:
        return list(forms_of(get_args(form)[1]))
    fields = [model.model_fields[part] for model in sections(form, value) if part in model.model_fields]
    return [form for field in fields for form in forms(field)]


def _item(value: Any, part: int | str) -> Any:
    if isinstance(part, int):
        return value[part] if isinstance(value, list | tuple) and part < len(value) else None
    return value.get(part) if isinstance(value, Mapping) else None


def _distinct(forms: Iterable[Any]) -> list[Any]:
    distinct: list[Any] = []
    for form in forms:
        if form not in distinct:
            distinct.append(form)
    return [form for form in distinct if form is not NoneType] + [NoneType] * (NoneType in distinct)
