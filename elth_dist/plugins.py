"""Load modules from outside that register kinds of their own, and record their content. No torch here."""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from elth_dist.errors import UserError

#: Installed packages name their plugin modules under this entry point group.
ENTRY_POINTS = "elth_dist"

_PACKAGE = __name__.partition(".")[0]
_loaded: list[str] = []


@dataclass(frozen=True)
class Plugin:
    """One plugin, as recorded in environment.json and in the identity of each job that uses it."""

    name: str  # top-level package or module
    version: str | None  # of the installed distribution, or the module's `__version__`
    sha256: str  # of its source files

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)


def load_plugins(names: Iterable[str]) -> None:
    """Import the plugins of installed packages' entry points, then the given ones.

    Args:
        names: modules (`my_package.criteria`) or paths of Python files (`examples/criterion.py`).

    Raises:
        UserError: a plugin is missing or fails to import; names it and the reason.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _load(point.module)
    for name in names:
        _load(module_name(name))


def module_name(plugin: str) -> str:
    """Return the name of the module that a plugin is imported as; add the folder of a file to the import path.

    Raises:
        UserError: there is no such file, or another module already has its name.
    """
    if not plugin.endswith(".py"):
        return plugin
    path = Path(plugin)
    if not path.is_file():
        raise UserError(f"plugins: no file {plugin}")
    if not path.stem.isidentifier():
        raise UserError(f"plugins: {plugin}: {path.stem!r} cannot be a module's name; rename the file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.find_spec(path.stem)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != path.resolve():
        raise UserError(f"plugins: {plugin}: another module is already named {path.stem}; rename the file")
    return path.stem


def _load(name: str) -> None:
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(f"plugins: there is no module {name}; install it, or give the path of its file") from None
        raise UserError(f"plugins: {name} needs the module {error.name}, which is not installed") from error
    except Exception as error:  # a foreign module may raise anything
        raise UserError(f"plugins: {name} fails to import: {type(error).__name__}: {error}") from error
    if name not in _loaded:
        _loaded.append(name)


def absolute(plugin: str) -> str:
    """Name a plugin so that another process of this machine can load it: a file's absolute path, a module's name."""
    return str(Path(plugin).resolve()) if plugin.endswith(".py") else plugin


def loaded() -> list[Plugin]:
    """List every plugin that load_plugins() has imported, in order."""
    return list(dict.fromkeys(plugin for name in _loaded if (plugin := plugin_of(name)) is not None))


def sources_to_copy() -> dict[str, Path]:
    """Map the sources of loaded plugins that are not installed: path below the import path -> file."""
    installed = [Path(sysconfig.get_path(place)) for place in ("purelib", "platlib")]
    files: dict[str, Path] = {}
    for plugin in loaded():
        paths = source_files(plugin.name)
        if any(folder in path.parents for folder in installed for path in paths):
            continue
        root = Path(sys.modules[plugin.name].__path__[0]).parent if _is_package(plugin.name) else paths[0].parent
        files |= {str(path.relative_to(root)): path for path in paths}
    return files


def _is_package(name: str) -> bool:
    return hasattr(sys.modules[name], "__path__")


def plugin_of(module: str) -> Plugin | None:
    """Return the plugin that a module belongs to; None for the modules of this package."""
    name = module.partition(".")[0]
    return None if name == _PACKAGE else _plugin(name if name in sys.modules else module)


@functools.cache
def _plugin(name: str) -> Plugin:
    module = sys.modules[name]
    digest = hashlib.sha256()
    for path in source_files(name):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return Plugin(name, _version(module, name), digest.hexdigest())


def source_files(name: str) -> list[Path]:
    """List the source files of an imported top-level module or package, sorted."""
    module = sys.modules[name]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if folders:
        return sorted(path for folder in folders for path in folder.rglob("*.py"))
    file = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    return [Path(file)] if file and Path(file).is_file() else []


def _version(module: ModuleType, name: str) -> str | None:
    for distribution in importlib.metadata.packages_distributions().get(name, ()):
        return importlib.metadata.version(distribution)
    version = getattr(module, "__version__", None)
    return None if version is None else str(version)
