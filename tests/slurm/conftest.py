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
    """The cluster's folder."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)")
    folder = Path(f"/tmp/elth-slurm-test-{os.getpid()}")
    environment = {**os.environ, "ELTH_SLURM_FOLDER": str(folder), "OMP_NUM_THREADS": "1"}
    try:
        started = subprocess.run([SCRIPT, "start"], env=environment, capture_output=True, text=True, timeout=600)
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop"], env=environment, check=True, timeout=600)


@pytest.fixture(scope="module", autouse=True)
def _on_the_cluster(cluster: Path) -> Iterator[None]:
    """SLURM's commands of this process and its children are about that cluster, in the tests of this folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELTH_SLURM_FOLDER", str(cluster))
        patch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
