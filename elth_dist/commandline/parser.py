"""The argparse parser of every command: a mistake is a UserError, and plugins are loaded before names are read."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from elth_dist.errors import UserError
from elth_dist.plugins import load_plugins


class Parser(argparse.ArgumentParser):
    """An argparse parser without abbreviations whose mistakes are UserErrors in the user's words."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        text = message.removeprefix("argument ")
        if text.endswith(("expected one argument", "expected at least one argument")):
            text = f"{text.split(':')[0]}: needs a value"
        elif text.startswith("the following arguments are required: "):
            text = f"{text.split(': ')[1].split(', ')[0]}: is missing"
        raise UserError(f"{text} (see {self.prog} --help)" if self.add_help else text)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Show `--plugins` in a command's help; take_plugins() reads it."""
    parser.add_argument("--plugins", metavar="MODULE,...", help="modules or Python files that add networks and so on")


def take_plugins(arguments: Sequence[str], first: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Load plugins: those of installed packages, `first`, and those of `--plugins` on the command line.

    Returns:
        The plugins of `--plugins`, and the rest of the command line.

    Raises:
        UserError: a plugin is missing or fails to import.
    """
    parser = Parser(add_help=False)
    parser.add_argument("--plugins")
    own, rest = parser.parse_known_args(arguments)
    text = own.plugins or ""
    named = [name.strip() for name in text.strip("[]").split(",") if name.strip()]
    load_plugins(dict.fromkeys([*first, *named]))
    return named, rest
