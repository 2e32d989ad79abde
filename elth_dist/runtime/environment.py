"""What the launcher says about this process. No torch here."""

import os


def environment_ranks() -> tuple[int, int, int]:
    """(rank, world size, local rank) as torchrun or the launcher set them; (0, 1, 0) for a process on its own."""
    return (
        int(os.environ.get("RANK", "0")),
        int(os.environ.get("WORLD_SIZE", "1")),
        int(os.environ.get("LOCAL_RANK", "0")),
    )
