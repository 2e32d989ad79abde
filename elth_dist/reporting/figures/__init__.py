"""Figures of results, with one colour per method everywhere."""
