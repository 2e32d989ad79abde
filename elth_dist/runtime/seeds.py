"""Seeds: one for each purpose, all from the user's."""

import hashlib


def derive_seed(seed: int, *purpose: str) -> int:
    """A seed of its own for each use of a user's seed: 63 bits, the same on any machine."""
    text = "/".join((str(seed), *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
