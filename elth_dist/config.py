"""The whole configuration of a run: a YAML file, then `--section.option value` from the command line.

No torch is imported here: a mistake is found in a moment, and plans are made where no torch is installed.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from elth_dist.data import Data
from elth_dist.engines.options import EngineOptions
from elth_dist.errors import UserError
from elth_dist.jobs.methods import AnyMethod
from elth_dist.jobs.setting import Setting
from elth_dist.models.options import ModelOptions
from elth_dist.runtime.options import RunOptions
from elth_dist.training.options import TrainOptions

_PROGRAM = "python -m elth_dist.train"


class Config(BaseSettings):
    """Every option of a run. Sections belong to the folders that use them."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = Field(default=0, description="of initialisation and data order")
    data_seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = Field(
        default=None, description="of the data order after the rewind step; null: `seed`"
    )
    model: ModelOptions
    data: Data
    train: TrainOptions = TrainOptions()
    method: AnyMethod
    engine: EngineOptions = EngineOptions()
    run: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        try:
            self.method.check_network(self.model.arch)
        except UserError as error:
            raise ValueError(f"method.{error}") from None
        return self

    @property
    def setting(self) -> Setting:
        """What every training of the run has in common."""
        return Setting(
            seed=self.seed,
            data_seed=None if self.data_seed == self.seed else self.data_seed,
            model=self.model,
            data=self.data,
            train=self.train,
            engine=self.engine,
        )

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out; reading it back gives the same configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what read_config() merged: no environment variables."""
        return (init_settings,)


class CommandLine(NamedTuple):
    """What a command line asks for."""

    config: Config
    print_only: bool


def read_config(arguments: Sequence[str] | None = None) -> CommandLine:
    """The configuration that a command line describes.

    Raises:
        UserError: naming the option or file, what is wrong with it, and the nearest valid name of an unknown one.
        SystemExit: after --help.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--print-config", action="store_true")
    try:
        own, rest = parser.parse_known_args(list(sys.argv[1:] if arguments is None else arguments))
    except argparse.ArgumentError:
        raise UserError("--config: needs the path of a YAML file") from None
    overrides = read_overrides(rest)
    merged = merge(read_yaml(Path(own.config)) if own.config else {}, overrides)
    run = merged.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") is None and own.config:
        run["name"] = Path(own.config).stem
    try:
        config = Config(**merged)
    except ValidationError as error:
        raise UserError(explain(error, overrides, own.config)) from None
    return CommandLine(config, own.print_config)


def read_yaml(path: Path, option: str = "--config") -> dict[str, Any]:
    """The sections of a YAML file. UserError naming `option`, the file and the place of a mistake."""
    try:
        found = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        raise UserError(f"{option}: no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{option}: {path}{where}: no valid YAML: {getattr(error, 'problem', error)}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{option}: {path}: holds a {type(found).__name__}, not sections of options")
    for name in found:
        if not isinstance(name, str):
            raise UserError(f"{option}: {path}: {name!r} is no name of a section of options; quote it if it is meant")
    return found


class _Loader(yaml.SafeLoader):
    """YAML 1.1 but for its base 60, in which the time 4:00:00 is the number 14400."""


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


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--section.option value` as nested sections, not yet checked. UserError for an option that does not exist."""
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            Config,
            cli_parse_args=list(arguments),
            cli_exit_on_error=False,
            cli_prog_name=f"{_PROGRAM} [--config FILE] [--print-config]",
            cli_avoid_json=True,
            cli_parse_none_str="null",
        )
        found: dict[str, Any] = source()
    except SettingsError as error:
        raise UserError(_explain_arguments(str(error), arguments)) from None
    return found


def _explain_arguments(message: str, arguments: Sequence[str]) -> str:
    known = {f"--{name}" for name in option_names(Config)} | {"--config", "--print-config", "--help"}
    for argument in arguments:
        name = argument.split("=")[0]
        if argument.startswith("--") and name not in known:
            return f"{name}: no such option{nearest(name, known)}"
    if "unrecognized arguments: " in message:
        return f"{message.split(': ')[-1]}: not understood; write --section.option value"
    return message.removeprefix("error parsing CLI: ")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of options with others over them. Another method than `base`'s takes over none of its options."""
    merged = dict(base)
    chosen, method = over.get("method"), base.get("method")
    if isinstance(chosen, dict) and isinstance(method, dict) and chosen.get("name") not in (None, method.get("name")):
        merged.pop("method")
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def option_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all options below a model, those of every alternative of a union too."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for nested in _models_in(field.annotation):
            yield from option_names(nested, f"{prefix}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []


def explain(error: ValidationError, overrides: Mapping[str, Any], file: str | None) -> str:
    """The first problem that pydantic found, as `option: what is wrong`, with the nearest valid name if it helps."""
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    option = ".".join(parts)
    where = f" (in {file})" if file and not _holds(overrides, parts) else ""
    message = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "extra_forbidden":
            return f"{option}: no such option{where}{nearest(option, set(option_names(Config)))}"
        case "missing":
            return f"{option}: is required{where}; give it in the file or as --{option}"
        case "kind_missing" | "kind_unknown":
            return f"{option}.name: {message}{where}"
        case "kind_form":
            return f"{option}: {message}{where}"
        case "value_error":  # our own validators, which name the value
            return f"{option}: {message}{where}" if option else f"{message}{where}"
        case _:
            return f"{option}: {message}, got {first['input']!r}{where}"


def _holds(nested: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(nested, Mapping) or part not in nested:
            return False
        nested = nested[part]
    return True


def nearest(name: str, known: set[str]) -> str:
    """'; did you mean ...?': the nearest whole dotted name, or else the nearest last part; empty if nothing is near."""
    plain = ".".join(part for part in name.split(".") if not part.isdigit())
    close = difflib.get_close_matches(plain, sorted(known), n=1, cutoff=0.75)
    if not close:
        by_last_part = {option.rsplit(".", 1)[-1]: option for option in sorted(known)}
        last = plain.rsplit(".", 1)[-1].lstrip("-")
        close = [by_last_part[found] for found in difflib.get_close_matches(last, by_last_part, n=1, cutoff=0.7)]
    return f"; did you mean {close[0]}?" if close else ""
