"""Count the FLOPs of networks and of their training, from shapes and from measured masks."""
