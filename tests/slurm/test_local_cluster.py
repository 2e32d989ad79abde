"""slurm/local_cluster.sh by itself: it starts, resolves, and leaves nothing behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.slurm.conftest import SCRIPT


def processes_with(text: str) -> list[str]:
    """Command lines and environments of the living processes that mention `text`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text in (process / "environ").read_bytes().decode(errors="replace") and process.name != str(os.getpid()):
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


@pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no slurmctld here (Debian: apt-get install slurm-wlm)")
def test_stop_leaves_nothing_behind_and_another_cluster_alone(cluster: Path, tmp_path: Path) -> None:
    folder = Path(f"/tmp/elth-slurm-second-{os.getpid()}")
    own = {**os.environ, "ELTH_SLURM_FOLDER": str(folder), "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        started = subprocess.run([SCRIPT, "start"], env=own, capture_output=True, text=True, timeout=600)
        assert started.returncode == 0, started.stderr
        assert started.stdout == f"export SLURM_CONF={folder}/slurm.conf\n"
        again = subprocess.run([SCRIPT, "start"], env=own, capture_output=True, text=True, timeout=600)
        assert again.returncode == 1
        assert "stop first" in again.stderr
        line = ["sbatch", "--parsable", "--nodes=2", "--gpus-per-node=2", "--output=/dev/null", "--wrap=srun sleep 600"]
        subprocess.run(line, env=own, check=True, capture_output=True, cwd=tmp_path)
        status = subprocess.run([SCRIPT, "status"], env=own, capture_output=True, text=True, check=True).stdout
        assert "node1" in status
        assert "node2" in status
    finally:
        subprocess.run([SCRIPT, "stop"], env=own, check=True, timeout=600)
    assert not folder.exists()
    folder.mkdir()  # somebody's own
    try:
        for word, says in (("start", "set ELTH_SLURM_FOLDER"), ("stop", "nothing is changed")):
            refused = subprocess.run([SCRIPT, word], env=own, capture_output=True, text=True, timeout=600)
            assert refused.returncode == 1
            assert says in refused.stderr
            assert folder.is_dir()
    finally:
        folder.rmdir()
    assert processes_with(str(folder)) == []
    shown = subprocess.run(["sinfo", "--noheader", "--format=%D"], capture_output=True, text=True, check=True).stdout
    assert set(shown.split()) == {"2"}, "the tests' own cluster goes on"
