"""A family of networks from outside: plain convolutional networks of any depth, between which tickets move.

    python -m elth_dist.train --plugins examples/family.py --config configs/quickstart.yaml \
        --model.arch plain4 --method.transfers '[{to: plain6}]'

A family says which names it knows, how a network is built, and which modules make up a unit. Stem, units and classifier
get their FLOPs, masks and initialisation from what they are made of.
"""

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from elth_dist import Architecture, Family, Published, families

if TYPE_CHECKING:
    from torch import nn

WIDTH = 32
_NAME = re.compile(r"plain([2-9]|[1-9]\d)", re.ASCII)


class Plain(Family):
    """Unit: convolution, BatchNorm and ReLU of one width; all units are one stage."""

    name = "plain"
    names = ("plain4", "plain6", "plain8")
    form = "plain(2 to 99)"
    published = Published(image_size=32, num_classes=10)

    def architecture(self, name: str) -> Architecture | None:
        match = _NAME.fullmatch(name)
        return None if match is None else Architecture(name, self, "conv", units=(int(match[1]),))

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        from torch import nn

        def unit(width_in: int) -> "nn.Module":
            return nn.Sequential(nn.Conv2d(width_in, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())

        [depth] = architecture.units
        units = nn.Sequential(*(unit(3 if number == 0 else WIDTH) for number in range(depth)))
        return nn.Sequential(
            OrderedDict(
                units=units, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(WIDTH, num_classes)
            )
        )

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        return (f"units.{unit}",)


families.add(Plain())
