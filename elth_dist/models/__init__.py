"""The networks: families of them, what each is made of (stages, units), how it is built and initialised."""

from elth_dist.models.family import Architecture, Family

__all__ = ["Architecture", "Family"]
