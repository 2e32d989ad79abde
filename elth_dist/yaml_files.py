"""YAML as configurations use it: 1.1 without its base 60, and no key twice in a mapping."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from elth_dist.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its base 60 (in which the time 4:00:00 is the number 14400); a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in lines:
                problem = f"{key.value} is given twice, first in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))


def read_yaml(path: Path, option: str = "--config") -> dict[str, Any]:
    """Read the sections of a YAML file.

    Args:
        path: the file.
        option: what names the file, for messages.

    Raises:
        UserError: naming `option`, the file and the line of a mistake.
    """
    try:
        sections = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        raise UserError(f"{option}: no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{option}: {path}{where}: no valid YAML: {_problem(error)}") from None
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise UserError(f"{option}: {path}: holds a {type(sections).__name__}, not sections of options")
    for name in sections:
        if not isinstance(name, str):
            raise UserError(f"{option}: {path}: {name!r} is no name of a section of options; quote it if it is meant")
    return sections


def read_value(text: str) -> Any:
    """Read one YAML value, such as `0.1`, `[a, b]` or `{name: rigl}`. ValueError saying what is wrong."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from None


def write_value(value: Any) -> str:
    """Write JSON values as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)
