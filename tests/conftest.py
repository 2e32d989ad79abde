"""What holds for every test."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# the machine may be busy, with other tests to begin with
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

#: What takes longest, longest first: started last, it would keep one worker busy when all others are done.
LONG = (
    "slurm",
    "distributed/test_resume.py",
    "launch/test_sweep.py",
    "test_train.py",
    "distributed/test_resume_updates.py",
    "distributed/test_deepspeed.py",
    "engines/test_contract.py",
    "sparsity/updates/test_on_ranks.py",
    "test_vit.py",
    "test_examples.py",
    "test_papers.py",
    "distributed/test_runtime.py",
    "test_finished_work.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest."""
    items.sort(key=lambda item: LONG.index(_group(item.nodeid)) if _group(item.nodeid) in LONG else len(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests in one worker, which makes its fixtures once; and all tests of one cluster in one worker.

    Not `--dist loadgroup`: with pytest 9.2 it silently keeps nothing together (pytest-xdist issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False  # by the number of tests
    return Groups(config, log)


def _group(nodeid: str) -> str:
    path = nodeid.partition("::")[0].removeprefix("tests/")
    return "slurm" if path.startswith("slurm/") else path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run beside ranks that they start: torch's threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)
