"""Copy the code that queued jobs run, so that edits of the checkout or a plugin do not change them."""

import hashlib
import json
import shutil
from pathlib import Path

import elth_dist
from elth_dist.plugins import sources_to_copy
from elth_dist.runtime.environment import REVISION_FILE, git_revision
from elth_dist.runtime.files import make_folder, whole_folder


def take_snapshot(folder: Path) -> Path:
    """Copy this package and the plugins that are not installed below `folder`, under the hash of their content.

    Returns:
        A folder for PYTHONPATH; there is one per content.
    """
    package = Path(elth_dist.__file__).resolve().parent
    sources = {
        str(path.relative_to(package.parent)): path
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", ".typed")
    }
    sources |= sources_to_copy()
    digest = hashlib.sha256()
    for name, path in sources.items():
        digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    target = folder / digest.hexdigest()[:12]
    if target.is_dir():
        return target
    make_folder(folder)
    with whole_folder(target) as scratch:
        for name, path in sources.items():
            copy = scratch / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (scratch / REVISION_FILE).write_text(json.dumps(git_revision()))
    return target
