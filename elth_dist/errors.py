"""Errors that end a run deliberately."""

import sys


class UserError(Exception):
    """A mistake that the user can correct: one line that names the option or file, its value, and what is valid.

    The process prints the line and exits with status 2; nothing has been written.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DisagreementError(Exception):
    """Two ranks hold different values of what must be equal on all. Names the value and the ranks."""


class OneRankError(UserError):
    """A UserError that only one rank meets while the others keep training; that rank prints it."""


def tell(error: UserError | DisagreementError, rank: int) -> int:
    """Print the error that ends the run, once over all ranks, and return the exit status."""
    if rank == 0 or isinstance(error, OneRankError):
        print(f"elth_dist: error: {error}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UserError) else 1
