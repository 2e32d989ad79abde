"""The two ways in which a run ends early on purpose."""


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
