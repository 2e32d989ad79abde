"""The ways in which a run ends early on purpose."""

import sys


class UserError(Exception):
    """A mistake that the user can correct: one line that names the option or file, the value, and what would be valid.

    The process that meets it prints that line and exits with status 2; nothing has been written.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DisagreementError(Exception):
    """Two ranks hold different values of something that must be equal everywhere. Names the thing and the ranks."""


class OneRankError(UserError):
    """A UserError that one rank alone has met while the others train on: that rank prints it."""


def tell(error: UserError | DisagreementError, rank: int) -> int:
    """Say what ends the run, once over all ranks; the exit status that goes with it."""
    if rank == 0 or isinstance(error, OneRankError):
        print(f"elth_dist: error: {error}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UserError) else 1
