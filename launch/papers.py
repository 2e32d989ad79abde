"""Run the twins of the papers' sweeps (configs/sweeps/digits), one after the other, and write their reports.

    python launch/papers.py [--dir FOLDER] [NAME ...]

Each twin runs by the commands in its own header, in FOLDER (default: a temporary one that is removed): first those that
are indented, which make the tickets that it starts from, then the sweep's. One line per twin says its jobs and seconds.
The exit status is 1 if a command failed or left a job undone.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TWINS = REPOSITORY / "configs/sweeps/digits"
#: Lines of a failed command's output that are shown.
_SHOWN = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Run twins; returns the exit status."""
    known = sorted(path.stem for path in TWINS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"twins to run (default: all): {', '.join(known)}")
    parser.add_argument("--dir", type=Path, help="folder to run in; what is finished there is not run again")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"NAME: no twin {unknown[0]}; valid are {', '.join(known)}")
    if options.dir is not None:
        return _run_all(options.names or known, options.dir.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return _run_all(options.names or known, Path(folder))


def _run_all(names: Sequence[str], folder: Path) -> int:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for shared in ("configs", "launch"):  # the commands name files in them
        if not (folder / shared).exists():
            (folder / shared).symlink_to(REPOSITORY / shared)
    failed = []
    for name in names:
        begun, log = time.monotonic(), folder / "logs" / f"{name}.log"
        log.unlink(missing_ok=True)
        whole = all(_succeeds(command, folder, log) for command in _commands(name))
        planned, done = _jobs(folder, name, log)
        whole = whole and 0 < planned == done
        seconds = time.monotonic() - begun
        print(f"{'ok' if whole else 'FAILED':6}  {name:28}  {done:3} of {planned:3} jobs  {seconds:4.0f} s", flush=True)
        if not whole:
            failed.append(name)
            print("\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN:]), flush=True)
    print(
        f"{len(names) - len(failed)} of {len(names)} twins are whole" + (f"; not {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _commands(name: str) -> Iterator[list[str]]:
    """Yield the commands of a twin's header, those that it builds on first, and the one of its report."""
    lines = [line for line in (TWINS / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    before = [line[1:] for line in lines if line.startswith("#   python ")]
    for line in (*before, lines[0][1:]):
        yield [sys.executable, *shlex.split(line)[1:]]
    yield [sys.executable, "-m", "elth_dist.reporting", f"runs/sweeps/{name}", "-o", f"reports/{name}"]


def _succeeds(command: Sequence[str], folder: Path, log: Path) -> bool:
    """Run a command in the folder, with its output at the end of the log."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    # more threads would only wait for each other on networks of this size
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(command)}\n".encode())
        output.flush()
        run = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    return run.returncode == 0


def _jobs(folder: Path, name: str, log: Path) -> tuple[int, int]:
    """Count a sweep's planned jobs, which its command prints, and the finished ones."""
    counts = [line.split(" jobs:")[0] for line in log.read_text(errors="replace").splitlines() if " jobs: " in line]
    planned = next((int(count) for count in counts if count.isdecimal()), 0)
    return planned, len(list((folder / "runs/sweeps" / name / "jobs").glob("*/result.json")))


if __name__ == "__main__":
    sys.exit(main())
