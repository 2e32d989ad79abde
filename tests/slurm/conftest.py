"""A real SLURM of two emulated nodes for these tests alone: slurm/local_cluster.sh."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.ranks import REPOSITORY

SCRIPT = REPOSITORY / "slurm/local_cluster.sh"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The cluster's folder; SLURM's commands of this process and its children are about it."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)")
    folder = Path(f"/tmp/elth-slurm-test-{os.getpid()}")
    before = {name: os.environ.get(name) for name in ("ELTH_SLURM_FOLDER", "SLURM_CONF", "OMP_NUM_THREADS")}
    os.environ.update(ELTH_SLURM_FOLDER=str(folder), SLURM_CONF=str(folder / "slurm.conf"), OMP_NUM_THREADS="1")
    try:
        started = subprocess.run([SCRIPT, "start"], capture_output=True, text=True, timeout=180)
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop"], check=True, timeout=180)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
