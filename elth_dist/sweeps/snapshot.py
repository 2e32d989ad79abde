"""The code that queued jobs run: a copy, so that editing the checkout does not change them."""

import hashlib
import json
import shutil
from pathlib import Path

import elth_dist
from elth_dist.runtime.environment import REVISION_FILE, git_revision
from elth_dist.runtime.files import make_folder, whole_folder


def take_snapshot(folder: Path) -> Path:
    """Copy this package below `folder`, under the hash of its content; a folder for PYTHONPATH. One a content."""
    package = Path(elth_dist.__file__).resolve().parent
    sources = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".typed"))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.relative_to(package)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    target = folder / digest.hexdigest()[:12]
    if target.is_dir():
        return target
    make_folder(folder)
    with whole_folder(target) as scratch:
        for path in sources:
            copy = scratch / package.name / path.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (scratch / REVISION_FILE).write_text(json.dumps(git_revision()))
    return target
