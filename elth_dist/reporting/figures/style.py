"""One colour and marker per method, the same in every figure, told apart by colour-blind readers too.

Colours are Okabe and Ito's, and Paul Tol's muted ones for what is left; no two methods share colour and marker.
"""

import colorsys
import hashlib
from typing import NamedTuple


class Style(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str


_STYLES = {
    "dense": Style("#000000", "s"),
    "imp": Style("#0072B2", "o"),
    "ett": Style("#D55E00", "D"),
    "ticket": Style("#56B4E9", "h"),
    "random": Style("#808080", "v"),
    "reinit": Style("#CC79A7", "^"),
    "random_reinit": Style("#AA4499", "<"),
    "shuffled_copies": Style("#882255", ">"),
    "snip_copies": Style("#44AA99", "p"),
    "magnitude": Style("#E69F00", "P"),
    "snip": Style("#009E73", "X"),
    "grasp": Style("#56B4E9", "*"),
    "synflow": Style("#332288", "d"),
    "rigl": Style("#117733", "o"),
    "set": Style("#999933", "s"),
    "snfs": Style("#DDCC77", "D"),
    "gradual": Style("#CC6677", "^"),
    "dpf": Style("#661100", "v"),
    # no methods: the range over layers
    "lowest layer": Style("#999933", "v"),
    "median layer": Style("#44AA99", "s"),
    "highest layer": Style("#CC6677", "P"),
}
_OTHERS = ("#6699CC", "#AA4466", "#4477AA", "#228833", "#BB5566", "#997700")
_MARKERS = "os^Dv<>phPX*d"
#: How curves of one method are told apart: full, dashed, ...
DASHES = ("-", "--", ":", "-.")


def style_of(method: str) -> Style:
    """The style of a method; a plugin's method always has the same one too."""
    if method in _STYLES:
        return _STYLES[method]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    return Style(_OTHERS[number % len(_OTHERS)], _MARKERS[number % len(_MARKERS)])


def shade(colour: str, variation: int) -> str:
    """The colour of a method's further curves: lighter and darker in turn; variation 0 is the colour itself."""
    if variation == 0:
        return colour
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    step = 0.13 * ((variation + 1) // 2) * (1 if variation % 2 else -1)
    mixed = colorsys.hls_to_rgb(hue, min(0.8, max(0.15, light + step)), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
