"""What environment.json says a run computed with."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from elth_dist import plugins
from elth_dist.runtime.environment import environment
from elth_dist.runtime.ranks import Ranks
from tests.helpers.ranks import run_ranks


def test_environment() -> None:
    now = environment(Ranks())
    assert json.loads(json.dumps(now)) == now
    assert now["world_size"] == 1
    assert now["devices"] == ["cpu"]
    assert now["hosts"] == [os.uname().nodename]
    assert {"python", "torch", "torchvision", "dali", "cuda"} <= now["versions"].keys()
    assert now["versions"]["torch"].startswith("2.")
    if now["git"] is not None:
        assert len(now["git"]["commit"]) == 40
        assert isinstance(now["git"]["dirty"], bool)


def _environment_with_plugin(path: str) -> Any:
    plugins.load_plugins([path])
    return environment(Ranks())["plugins"]


def test_plugins_are_listed_with_version_and_hash(tmp_path: Path) -> None:
    """In a process of its own, which the plugin stays loaded in."""
    file = tmp_path / "listed_plugin.py"
    file.write_text('__version__ = "1.5"\n')
    [result] = run_ranks(_environment_with_plugin, 1, args=[str(file)], join=False)
    digest = hashlib.sha256(b"listed_plugin.py\0" + file.read_bytes()).hexdigest()
    assert result.value == [{"name": "listed_plugin", "version": "1.5", "sha256": digest}]
