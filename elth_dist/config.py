"""The whole configuration of a run: a YAML file, then `--section.option value` from the command line.

No torch is imported here: a mistake is answered at once, and plans are made where no torch is installed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from elth_dist.commandline import mistakes, overrides
from elth_dist.commandline.help import help_text
from elth_dist.commandline.mistakes import nearest
from elth_dist.commandline.overrides import Overrides
from elth_dist.commandline.parser import Parser, take_plugins
from elth_dist.commandline.tree import item_at, locate, option_names
from elth_dist.data import Data
from elth_dist.engines.options import EngineOptions
from elth_dist.errors import UserError
from elth_dist.jobs.methods import AnyMethod
from elth_dist.jobs.setting import Setting
from elth_dist.models.options import ModelOptions
from elth_dist.options import Options
from elth_dist.runtime.launcher import launcher_ranks
from elth_dist.runtime.options import RunOptions
from elth_dist.training.options import TrainOptions
from elth_dist.yaml_files import read_yaml

__all__ = [
    "CommandLine",
    "Config",
    "explain",
    "is_typed",
    "merge",
    "nearest",
    "option_names",
    "read_config",
    "read_overrides",
    "read_yaml",
]


class Config(Options):
    """Every option of a run. Sections belong to the folders that use them."""

    plugins: tuple[str, ...] = Field(
        default=(),
        description="modules that register methods, datasets and so on: my_package.criteria, or the path of a file; "
        "installed packages that announce theirs are loaded anyway",
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = Field(
        default=0, description="seed of the initialisation and of the data order"
    )
    data_seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = Field(
        default=None, description="seed of the data order after the rewind step; null: as `seed`"
    )
    model: ModelOptions = Field(description="which network, and how it is initialised")
    data: Data = Field(description="which images, how they are read and augmented")
    train: TrainOptions = Field(default=TrainOptions(), description="length, batch, learning rate, precision")
    method: AnyMethod = Field(description="what the run does")
    engine: EngineOptions = Field(default=EngineOptions(), description="how a step is executed on many devices")
    run: RunOptions = Field(default=RunOptions(), description="where the run is written")

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


class CommandLine(NamedTuple):
    """What a command line asks for."""

    config: Config
    print_only: bool


def read_config(arguments: Sequence[str] | None = None) -> CommandLine:
    """Read the configuration that a command line describes.

    Raises:
        UserError: naming the option or file, what is wrong with it, and the nearest valid name of an unknown one.
        SystemExit: after --help, which rank 0 prints.
    """
    parser = Parser(add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[-1:] == ["--config"]:
        raise UserError("--config: needs the path of a YAML file")
    own, rest = parser.parse_known_args(given)
    base = _read_file(own)
    over = read_overrides(rest, base)
    merged = merge(base, over)
    if own.help:
        if launcher_ranks()[0] == 0:
            print(help_text(Config, merged), end="")
        raise SystemExit(0)
    try:
        config = Config(**merged)
    except ValidationError as error:
        raise UserError(explain(error, over, own.config if _is_files(error, base, over) else None, merged)) from None
    return CommandLine(config, own.print_config)


def _read_file(own: argparse.Namespace) -> dict[str, Any]:
    """The sections of the file that `own.config` names; the run has the file's name unless they say another."""
    if own.config is None:
        return {}
    path = Path(own.config)
    base = read_yaml(path)
    if {"recipe", "experiments"} <= base.keys():
        raise UserError(f"--config: {path} describes a sweep; run it with python launch/sweep.py {path}")
    run = base.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") is None:
        base["run"] = {**run, "name": path.stem}
    return base


def read_overrides(arguments: Sequence[str], base: Mapping[str, Any] | None = None) -> Overrides:
    """`--section.option value` as nested sections, not yet checked. Loads plugins, those that `base` names first.

    Args:
        arguments: of the command line.
        base: what the file says.

    Raises:
        UserError: an option that does not exist, or a plugin that cannot be loaded.
    """
    base = base or {}
    listed = base.get("plugins") or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise UserError(f"plugins: {listed!r} is no list of modules; write [my_package.criteria, path/to/file.py]")
    added, _ = take_plugins(arguments, listed)
    read = overrides.read_overrides(arguments, Config, base)
    if added:
        read["plugins"] = list(dict.fromkeys([*listed, *added]))
    return read


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of options with others over them. A kind that replaces another takes over none of its options."""
    return overrides.merge(base, over, [Config])


def explain(
    error: ValidationError, over: Mapping[str, Any], file: str | None, given: Mapping[str, Any] | None = None
) -> str:
    """The first mistake that pydantic names in a configuration, as `option: what is wrong`.

    Args:
        error: of a Config.
        over: what the command line says; see read_overrides().
        file: the file that has the mistake; None: the command line has it, or the caller names the file.
        given: what was refused: the file's sections with the command line's over them.
    """
    typed = over.typed if isinstance(over, Overrides) else {}
    return mistakes.explain(error, Config, given=over if given is None else given, typed=typed, file=file)


def is_typed(error: ValidationError, over: Mapping[str, Any]) -> bool:
    """Whether the first mistake is in a value that the command line gives."""
    path, _ = locate(error.errors(include_url=False, include_input=False)[0]["loc"], Config, over)
    value = item_at(over, path)
    return value is not None and not isinstance(value, Mapping)


def _is_files(error: ValidationError, base: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """Whether the first mistake is in the file: it is there without the command line, which does not say it as well."""
    if is_typed(error, over):
        return False
    first = error.errors(include_url=False, include_input=False)[0]
    try:
        Config(**base)
    except ValidationError as alone:
        same = [(other["loc"], other["msg"]) for other in alone.errors(include_url=False, include_input=False)]
        return (first["loc"], first["msg"]) in same
    return False
