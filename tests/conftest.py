"""What holds for every test."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run beside ranks that they start: torch's threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)
