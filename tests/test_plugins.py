"""Plugins: modules from outside, by name, by path, or announced by an installed package."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elth_dist import plugins
from elth_dist.errors import UserError
from elth_dist.plugins import load_plugins, loaded, plugin_of


@pytest.fixture(autouse=True)
def as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test loads is forgotten."""
    modules, folders = set(sys.modules), list(sys.path)
    monkeypatch.setattr(plugins, "_loaded", [])
    yield
    sys.path[:] = folders
    for name in set(sys.modules) - modules:
        if name.startswith("plugged"):
            del sys.modules[name]
    plugins._plugin.cache_clear()


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_module_by_name(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write("__version__ = '1.5'\n", "plugged_package/__init__.py")
    other = write("LOADED = True\n", "plugged_package/criteria.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins(["plugged_package.criteria"])
    assert sys.modules["plugged_package.criteria"].LOADED
    assert [plugin.name for plugin in loaded()] == ["plugged_package"]
    [plugin] = loaded()
    digest = hashlib.sha256()
    for path in (one, other):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    assert plugin.to_json() == {"name": "plugged_package", "version": "1.5", "sha256": digest.hexdigest()}
    assert plugin_of("plugged_package.criteria") == plugin
    load_plugins(["plugged_package.criteria"])
    assert [plugin.name for plugin in loaded()] == ["plugged_package"], "once is enough"


def test_a_file_by_path_can_be_imported_by_its_name(write: Write) -> None:
    path = write("VALUE = 7\n", "plugged_file.py")
    load_plugins([str(path)])
    assert sys.modules["plugged_file"].VALUE == 7
    [plugin] = loaded()
    expected = hashlib.sha256(b"plugged_file.py\0VALUE = 7\n").hexdigest()
    assert plugin.to_json() == {"name": "plugged_file", "version": None, "sha256": expected}


def test_the_house_is_no_plugin() -> None:
    assert plugin_of("elth_dist.sparsity.criteria.snip") is None


def mistake(*names: str) -> str:
    with pytest.raises(UserError) as caught:
        load_plugins(names)
    assert "\n" not in str(caught.value)
    assert loaded() == []
    return str(caught.value)


def test_a_module_or_file_that_is_not_there(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "install it, or give the path of its file"
    assert mistake("plugged_nowhere") == f"plugins: there is no module plugged_nowhere; {advice}"
    assert mistake("plugged_nowhere.part") == f"plugins: there is no module plugged_nowhere.part; {advice}"
    assert mistake("/nowhere/at_all.py") == "plugins: no file /nowhere/at_all.py"
    write("", "plugged_package/__init__.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert mistake("plugged_package.missing") == f"plugins: there is no module plugged_package.missing; {advice}"


def test_a_module_that_fails_to_import_is_named(write: Write) -> None:
    path = write("raise RuntimeError('of\\nmine')\n", "plugged_broken.py")
    assert mistake(str(path)) == "plugins: plugged_broken fails to import: RuntimeError: of mine"
    path = write("def broken(:\n", "plugged_syntax.py")
    assert mistake(str(path)).startswith("plugins: plugged_syntax fails to import: SyntaxError: ")
    path = write("import plugged_dependency\n", "plugged_needy.py")
    assert mistake(str(path)) == "plugins: plugged_needy needs the module plugged_dependency, which is not installed"


def test_a_users_mistake_in_a_plugin_stays_what_it_is(write: Write) -> None:
    path = write(
        "from typing import Literal\n"
        "from elth_dist.registry import criteria\n"
        "from elth_dist.sparsity.criteria import Criterion\n"
        "@criteria.add\n"
        "class Mine(Criterion):\n"
        "    name: Literal['snip'] = 'snip'\n",
        "plugged_clash.py",
    )
    ours, theirs = "elth_dist.sparsity.criteria.snip.Snip", "plugged_clash.Mine"
    assert mistake(str(path)) == f"criterion 'snip' is registered twice: by {ours} and by {theirs}"


def test_a_file_whose_name_another_module_has(write: Write) -> None:
    path = write("", "json.py")
    assert mistake(str(path)) == f"plugins: {path}: another module is already named json; rename the file"
    path = write("", "no-name.py")
    assert mistake(str(path)) == f"plugins: {path}: 'no-name' cannot be a module's name; rename the file"


def test_an_installed_package_announces_its_modules(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("", "plugged_installed/__init__.py")
    write("LOADED = True\n", "plugged_installed/kinds.py")
    info = "plugged_distribution-2.3.dist-info"
    write("Metadata-Version: 2.1\nName: plugged-distribution\nVersion: 2.3\n", f"{info}/METADATA")
    write("[elth_dist]\nkinds = plugged_installed.kinds\n", f"{info}/entry_points.txt")
    write("plugged_installed\n", f"{info}/top_level.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins([])
    assert sys.modules["plugged_installed.kinds"].LOADED
    [plugin] = [plugin for plugin in loaded() if plugin.name == "plugged_installed"]
    assert plugin.version == "2.3", "the distribution's"
