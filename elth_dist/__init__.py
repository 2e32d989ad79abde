"""Winning lottery tickets of ImageNet ResNets on many devices, and their elastic transformation to other depths."""

__version__ = "0.1.0"
