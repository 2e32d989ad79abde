"""What a run computes with: versions, plugins, git revision, hosts, devices."""

import contextlib
import json
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import elth_dist
from elth_dist import plugins
from elth_dist.runtime.ranks import Ranks

#: Names, in a copy of this package, the commit that it was copied from.
REVISION_FILE = "revision.json"


def environment(ranks: Ranks) -> dict[str, Any]:
    """Record what a run depends on apart from its configuration, as JSON values. Collective; equal on every rank."""
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    places = ranks.gather_json({"host": socket.gethostname(), "device": device})
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "world_size": ranks.world_size,
        "hosts": sorted({place["host"] for place in places}),
        "devices": [place["device"] for place in places],
        "cpu_threads": torch.get_num_threads(),
        "versions": {
            "elth_dist": elth_dist.__version__,
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch leaves it untyped
            **{name: _installed(name) for name in ("torchvision", "numpy", "safetensors", "deepspeed")},
            "dali": _installed("nvidia-dali-cuda130") or _installed("nvidia-dali-cuda120"),
        },
        "plugins": [plugin.to_json() for plugin in plugins.loaded()],
        "git": ranks.broadcast_json(git_revision() if ranks.is_main else None),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> dict[str, Any] | None:
    """Return the commit of this package (or of its copy) and whether files differ from it; None if unknown."""
    checkout = Path(elth_dist.__file__).resolve().parents[1]
    with contextlib.suppress(OSError, ValueError):
        copied: dict[str, Any] | None = json.loads((checkout / REVISION_FILE).read_bytes())
        return copied

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != checkout:
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
