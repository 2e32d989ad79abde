"""Stand-ins for the ticket files that some of the shipped sweeps start from."""

from pathlib import Path

import pytest

from tests.helpers.ranks import REPOSITORY
from tests.tickets.conftest import make

FOLDER = REPOSITORY / "configs/sweeps"
SWEEPS = sorted(FOLDER.rglob("*.yaml"))

#: Network of each run whose ticket a sweep trains, by the run's name.
TICKETS = {
    "resnet20_imp/mask-10": "resnet20_cifar",
    "resnet20_imp_svhn/mask-10": "resnet20_cifar",
    "resnet26_imp/mask-06": "resnet26",
    "digits_ticket/mask-02": "resnet14_cifar",
}


@pytest.fixture(scope="session")
def ticket_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ticket file in each place where a shipped sweep looks for one."""
    folder = tmp_path_factory.mktemp("tickets")
    for name, arch in TICKETS.items():
        (folder / "runs" / name).mkdir(parents=True)
        make(arch).save(folder / "runs" / name / "ticket.safetensors")
    return folder


@pytest.fixture(params=SWEEPS, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def shipped(request: pytest.FixtureRequest, ticket_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each shipped sweep and twin, in a folder that has the tickets."""
    monkeypatch.chdir(ticket_files)
    path = request.param
    assert isinstance(path, Path)
    return path
