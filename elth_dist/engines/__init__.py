"""How a training step is executed on many devices, behind one protocol."""
