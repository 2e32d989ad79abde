"""Seeds: one per purpose, all derived from the user's."""

import hashlib


def derive_seed(seed: int, *purpose: str) -> int:
    """Derive a 63-bit seed for one purpose from the user's seed, the same on every machine."""
    text = "/".join((str(seed), *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
