"""Small datasets on disk that several tests read."""

from pathlib import Path

import pytest
import torch

from elth_dist.data.digits import write_digits
from tests.data.images import write_photos


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The digits tree (train/ and val/)."""
    return write_digits(tmp_path_factory.mktemp("digits"), 16)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Two classes of generated JPEGs of many shapes below train/ and val/."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root)
    return root
