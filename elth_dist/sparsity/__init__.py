"""Masks and how they are chosen: functions on tensors and numbers, without process groups or files."""
