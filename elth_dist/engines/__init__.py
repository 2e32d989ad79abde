"""Execute a training step on many devices, behind one protocol."""
