"""What networks and their training cost in floating-point operations: counted from shapes and from measured masks."""
