"""Masks and the maths that chooses them. Functions on tensors and numbers: no process group, no files."""
