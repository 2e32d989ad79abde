"""Rendezvous of ranks through a shared folder: rank 0 gets a free port from the system and writes it to a file.

No port is computed from a job's number, so that two jobs on one node cannot collide.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from elth_dist.errors import UserError
from elth_dist.runtime.files import make_folder, write_atomically


@contextlib.contextmanager
def meet(place: Path, rank: int, world_size: int, *, one_host: bool, minutes: float = 5.0) -> Iterator[None]:
    """Set MASTER_ADDR and MASTER_PORT to rank 0's while the block runs.

    Args:
        place: the file to meet at, used by this attempt only, in a folder that all ranks see.
        rank, world_size: of this process; does nothing if `world_size` is 1.
        one_host: whether all ranks are on this machine.
        minutes: how long to wait for rank 0.

    Raises:
        UserError: rank 0 did not appear in time, or no name of its machine resolves.
    """
    if world_size == 1:
        yield
        return
    store = None
    if rank == 0:
        from torch.distributed import TCPStore  # type: ignore[attr-defined] # torch re-exports it

        address = "127.0.0.1" if one_host else _own_name()
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        make_folder(place.parent)
        write_atomically(place, json.dumps({"address": address, "port": store.port}).encode())
    server = _wait_for(place, minutes)
    # as under torchrun's agent: the store exists already, and every rank is its client
    os.environ.update(
        MASTER_ADDR=server["address"], MASTER_PORT=str(server["port"]), TORCHELASTIC_USE_AGENT_STORE="True"
    )
    try:
        yield
    finally:
        if store is not None:
            place.unlink(missing_ok=True)
            del store
        for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
            del os.environ[name]


def _own_name() -> str:
    """Return a name under which other machines reach this one."""
    names = [os.environ.get("SLURMD_NODENAME"), socket.gethostname(), socket.getfqdn()]
    for name in filter(None, names):
        with contextlib.suppress(OSError):
            socket.getaddrinfo(name, None)
            return name
    raise UserError(
        f"this machine's name does not resolve ({', '.join(filter(None, names))}): other nodes cannot reach it"
    )


def _wait_for(place: Path, minutes: float) -> dict[str, str]:
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            server: dict[str, str] = json.loads(place.read_bytes())
            return server
        time.sleep(0.05)
    raise UserError(f"{place}: rank 0 has not written it in {minutes:g} minutes; do all nodes see that folder?")
