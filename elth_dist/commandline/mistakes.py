"""What a user is told about a mistake: one line that names the option, what is wrong, and what would be valid."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from elth_dist.commandline.tree import (
    Form,
    elements,
    is_list,
    is_section,
    item_at,
    length,
    locate,
    name_in,
    option_names,
    options,
    origin,
    sections,
)
from elth_dist.commandline.values import described, leading_option, placeholder, quote
from elth_dist.registry import OneOf

#: Other codes' words for our options, by the last part of a name; the first that is valid is meant.
SYNONYMS = {
    "sparsity": ("method.density", "method.levels"),
    "batch": ("train.global_batch",),
    "batch_size": ("train.global_batch",),
    "batchsize": ("train.global_batch",),
    "micro_batch_size": ("train.accumulate",),
    "gradient_accumulation_steps": ("train.accumulate",),
    "learning_rate": ("train.lr",),
    "lr_schedule": ("train.schedule",),
    "lr_scheduler": ("train.schedule",),
    "wd": ("train.weight_decay",),
    "num_epochs": ("train.epochs",),
    "max_epochs": ("train.epochs",),
    "warmup_epochs": ("train.warmup",),
    "amp": ("train.precision",),
    "dtype": ("train.precision",),
    "smoothing": ("train.label_smoothing",),
    "workers": ("data.threads",),
    "num_workers": ("data.threads",),
    "dataset": ("data.name",),
    "data_dir": ("data.root",),
    "data_path": ("data.root",),
    "img_size": ("data.image_size",),
    "classes": ("data.num_classes",),
    "network": ("model.arch",),
    "architecture": ("model.arch",),
    "arch": ("model.arch",),
    "rounds": ("method.levels",),
    "pruning_rate": ("method.prune_fraction",),
    "prune_rate": ("method.prune_fraction",),
    "rewind_epoch": ("method.rewind",),
    "ticket": ("method.path",),
    "update_freq": ("method.delta_t",),
    "output_dir": ("run.dir",),
    "out": ("run.dir",),
    "save_dir": ("run.dir",),
    "zero": ("engine.zero_stage",),
}

_WRONG_TYPE = (
    "type",
    "_type",
    "_parsing",
    "_from_float",
    "literal_error",
    "none_required",
    "is_instance_of",
    "_parsing_size",
)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    *,
    given: Mapping[str, Any],
    typed: Mapping[str, str] | None = None,
    file: str | None = None,
) -> str:
    """The first mistake that pydantic names, as `option: what is wrong`.

    Args:
        error: of a value of `model`.
        model: the class of options.
        given: the value that was refused.
        typed: values as they were typed on the command line, by option; None: the options are a file's alone.
        file: the file that has the mistake; None if it is not the file's.
    """
    first, path, accepted = _first(error, model, given)
    option = ".".join(path)
    where = f" (in {file})" if file else ""
    value = first["input"]
    got = repr(typed[option]) if typed and option in typed else quote(value)
    message = first["msg"].removeprefix("Value error, ")
    kind, context = first["type"], first.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return _no_option([*path, str(first["loc"][-1])], model, given, where)
        case "missing" if isinstance(first["loc"][-1], int):
            return _wrong_length(path[:-1], model, given, where)
        case "missing":
            return _missing(
                option, accepted, where, flag=typed is not None and not any(part.isdecimal() for part in path)
            )
        case "kind_missing":
            return f"{option}.name: is required{where}; valid are {context['valid']}"
        case "kind_unknown":
            unknown = f"{option}.name: unknown {context['what']} {context['name']}{where}; valid are {context['valid']}"
            return f"{unknown}{context['hint']}"
        case "value_error" | "kind_form":  # our own validators, which name the value
            return f"{option}: {message}{where}" if option else f"{message}{where}"
        case "too_long" if any(length(form) for form in accepted if is_list(form)):
            return _wrong_length(path, model, given, where)
        case "model_type" | "model_attributes_type":
            section = next(form for form in accepted if is_section(form))
            return explain_section(option, section, value, where)
        case "string_pattern_mismatch":
            return (
                f"{option}: {got} may hold letters, digits, '.', '_' and '-', and starts with a letter or digit{where}"
            )
    if _is_nan(value):
        return f"{option}: {got} is not a number{where}"
    if _is_wrong_type(first):
        return f"{option}: needs {described(accepted)}, got {got}{where}{_quote_it(value, accepted)}"
    return f"{option}: {message}, got {got}{where}"


def _first(
    error: ValidationError, model: type[BaseModel], given: Mapping[str, Any]
) -> tuple[ErrorDetails, list[str], list[Form]]:
    """The first error with its option's path and forms; where a union's members each have one, the most telling."""
    errors = error.errors(include_url=False)
    first = errors[0]
    path, accepted = locate(first["loc"], model, given)
    if len(path) == len(first["loc"]) or first["type"] == "extra_forbidden":
        return first, path, accepted
    same = [(candidate, *locate(candidate["loc"], model, given)) for candidate in errors]
    same = [(candidate, place, forms) for candidate, place, forms in same if place[: len(path)] == path]
    for candidate, place, forms in same:
        if len(place) > len(path) or not (_is_wrong_type(candidate) or candidate["type"] == "value_error"):
            return candidate, place, forms
    if len(same) > 1:
        first = {**first, "type": "type"}
    return first, path, accepted


def _is_wrong_type(error: ErrorDetails) -> bool:
    return error["type"].endswith(_WRONG_TYPE)


def _is_nan(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("nan", ".nan")
    return isinstance(value, float) and math.isnan(value)


def _quote_it(value: Any, accepted: Sequence[Form]) -> str:
    """YAML reads a bare `off` or `on` as a boolean."""
    choices = {choice for form in accepted if origin(form) is Literal for choice in get_args(form)}
    word = {True: "on", False: "off"}.get(value) if isinstance(value, bool) else None
    return f"; in YAML, write '{word}' in quotes" if word in choices else ""


def _wrong_length(path: list[str], model: type[BaseModel], given: Mapping[str, Any], where: str) -> str:
    _, accepted = locate([int(part) if part.isdecimal() else part for part in path], model, given)
    form = next(form for form in accepted if is_list(form))
    value = item_at(given, path)
    count = len(value) if isinstance(value, list | tuple) else 0
    return f"{'.'.join(path)}: needs {length(form)} values: {placeholder([form])}; got {count}: {quote(value)}{where}"


def _missing(option: str, accepted: Sequence[Form], where: str, *, flag: bool) -> str:
    if not flag:
        return f"{option}: is required{where}"
    place = f"--{option}"
    for form in accepted:
        if is_section(form) and (leading := leading_option(form)):
            place = f"--{option}.{leading}"
    return f"{option}: is required{where}; give it in the file or as {place}"


def explain_section(option: str, section: type[BaseModel], value: Any, where: str = "") -> str:
    """What to write where a value stands in the place of a whole section."""
    leading = leading_option(section) or "OPTION"
    plain = value if isinstance(value, str) and leading != "OPTION" else "VALUE"
    flag = "" if any(part.isdecimal() for part in option.split(".")) else f" or --{option}.{leading} {plain}"
    return f"{option}: {quote(value)} is not a section of options{where}; write {{{leading}: {plain}}}{flag}"


def _no_option(path: list[str], model: type[BaseModel], given: Mapping[str, Any], where: str) -> str:
    option = ".".join(path)
    *parent, last = path
    _, above = locate([int(part) if part.isdecimal() else part for part in parent], model, given)
    value = item_at(given, parent)
    for form in above:
        if isinstance(form, OneOf) and any(last in kind.model_fields for kind in sections(form)) and name_in(value):
            [kind] = sections(form, value)
            valid = ", ".join(field for field in kind.model_fields if field != "name")
            return f"{option}: is not an option of {form.what} {name_in(value)!r}{where}; valid are {valid or 'none'}"
    own = [name for form in above for section in sections(form, value) for name in section.model_fields]
    close = difflib.get_close_matches(last, own, n=1, cutoff=0.7)
    if close:
        return f"{option}: no such option{where}; did you mean {'.'.join([*parent, close[0]])}?"
    return f"{option}: no such option{where}{nearest(option, set(option_names(model, given)))}"


def no_such_option(arguments: Sequence[str], model: type[BaseModel], given: Mapping[str, Any]) -> str:
    """What to say about arguments that name no option.

    Args:
        arguments: those that were left over.
        model: the class of all options.
        given: values, of which the names of kinds decide what can be meant.
    """
    flag = next((argument for argument in arguments if argument.startswith("--")), None)
    if flag is None or flag == "--":
        return f"{arguments[0]}: not understood; write --section.option value"
    name = flag.split("=")[0].removeprefix("--")
    known = {option.name: option for option in options([model], given)}
    parts = name.split(".")
    plain = ".".join(part for part in parts if not part.isdecimal())
    for end in range(len(parts), 0, -1):
        above = known.get(".".join(parts[:end]))
        lists = [form for form in above.forms if is_list(form)] if above else []
        if above and lists and (end < len(parts)):
            return f"--{name}: no such option; a list is written whole: {_list_example(above.name, lists[0])}"
    on_command_line = {option.name for option in known.values() if not option.in_list}
    if plain in known and known[plain].in_list:
        on_command_line.add(plain)
    return f"--{name}: no such option{nearest(name, on_command_line, '--')}"


def _list_example(option: str, form: Form) -> str:
    if length(form) is not None:
        return f"--{option} {placeholder([form])}"
    inner = elements(form)
    for part in inner:
        if isinstance(part, OneOf):
            names = list(part.kinds())
            return f"--{option} {','.join(names[:2])} or --{option} '[{{name: {names[-1]}, OPTION: VALUE}}]'"
        if is_section(part):
            leading = leading_option(part) or "OPTION"
            return f"--{option} '[{{{leading}: VALUE}}, {{{leading}: VALUE, OPTION: VALUE}}]'"
    return f"--{option} A,B with {placeholder(inner)} for each"


def nearest(name: str, known: set[str], prefix: str = "") -> str:
    """`; did you mean ...?`, or nothing if no known option is near.

    Other codes' words are tried first, then whole dotted names, then their last parts.

    Args:
        name: what was written.
        known: dotted names that are valid.
        prefix: put in front of the suggestion.
    """
    plain = ".".join(part for part in name.removeprefix("--").split(".") if not part.isdecimal())
    last = plain.rsplit(".", 1)[-1]
    bare = {option.removeprefix("--"): option for option in known}
    section = plain.partition(".")[0] if "." in plain and plain.partition(".")[0] in bare else ""
    words = SYNONYMS.get(last.replace("-", "_").lower(), ())
    meant = [option for option in words if option in bare and option.startswith(section)]
    if meant:
        relation = " (density = 1 - sparsity)" if meant[0].endswith(".density") and last == "sparsity" else ""
        return f"; did you mean {prefix}{bare[meant[0]]}{relation}?"
    by_last_part: dict[str, str] = {}
    for option in sorted(bare, key=lambda option: (option.count("."), option)):
        by_last_part.setdefault(option.rsplit(".", 1)[-1], option)
    close = difflib.get_close_matches(plain, sorted(bare), n=3, cutoff=0.75)
    close = [option for option in close if _alike(last, option.rsplit(".", 1)[-1])]  # not only in their sections
    if not close:
        near = difflib.get_close_matches(last.replace("-", "_"), by_last_part, n=1, cutoff=0.9 if section else 0.7)
        close = [by_last_part[part] for part in near]
    return f"; did you mean {prefix}{bare[close[0]]}?" if close else ""


def _alike(word: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, word, other).ratio() >= 0.6
