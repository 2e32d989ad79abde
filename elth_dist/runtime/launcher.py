"""Read this process's rank from the launcher's environment variables. No torch here."""

import os

from elth_dist.errors import UserError


def launcher_ranks() -> tuple[int, int, int]:
    """Return (rank, world size, local rank) from the environment; (0, 1, 0) for a process without a launcher.

    Raises:
        UserError: the environment variables are invalid or contradict each other.
    """
    values = {}
    for name, alone in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)):
        text = os.environ.get(name, str(alone))
        if not text.isdecimal():
            raise UserError(f"environment variable {name}: {text!r} is not a number; torchrun sets it")
        values[name] = int(text)
    rank, world_size, local_rank = values.values()
    if rank >= world_size:
        raise UserError(f"environment variable RANK: {rank} is not below WORLD_SIZE ({world_size}); torchrun sets both")
    if world_size > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(f"WORLD_SIZE is {world_size}, but MASTER_ADDR or MASTER_PORT is not set; start with torchrun")
    return rank, world_size, local_rank
