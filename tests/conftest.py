"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# the machine may be busy, with other tests to begin with
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TESTS = Path(__file__).parent
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
    "distributed/test_runtime.py",
)


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one worker, which makes its fixtures once; and all tests of one cluster in one worker."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: LONG.index(_group(item)) if _group(item) in LONG else len(LONG))


def _group(item: pytest.Item) -> str:
    path = item.path.relative_to(TESTS)
    return "slurm" if path.parts[0] == "slurm" else str(path)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run beside ranks that they start: torch's threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)
