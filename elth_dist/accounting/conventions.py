"""Conventions by which papers count FLOPs, by name. All other reports of the project use `exact`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from elth_dist.accounting.layers import Densities, Layer, Network, network
from elth_dist.errors import UserError
from elth_dist.models.families import architecture

ConventionName = Literal["exact", "rigl_paper", "rigl_compat_115", "dpf_counter", "elth_paper"]

#: Rows of a table that belong to no layer; MATMULS only for networks with products of activations.
ELEMENTWISE = "BatchNorm, ReLU, pooling"
MATMULS = "other products"


@dataclass(frozen=True)
class Convention:
    """A convention for counting FLOPs."""

    name: ConventionName
    description: str
    costs: Callable[[Network, Densities], dict[str, float]]
    """Forward cost of one sample by weight; also `MATMULS` and `ELEMENTWISE`, where those are counted."""

    def forward(self, counted: Network, densities: Densities | None = None) -> float:
        """Compute the forward cost of one sample, dense if `densities` is None.

        UserError if the convention does not apply to the network.
        """
        return sum(self.costs(counted, {} if densities is None else densities).values())


def _exact(counted: Network, densities: Densities) -> dict[str, float]:
    layers = {layer.weight: 2 * layer.macs * densities.get(layer.weight, 1.0) for layer in counted.layers}
    return layers | _matmuls(counted, 2)


def _matmuls(counted: Network, flops_per_mac: int) -> dict[str, float]:
    return {MATMULS: flops_per_mac * counted.matmuls} if counted.matmuls else {}


def _rigl(layer: Layer, density: float) -> float:
    return 2 * layer.macs * density + layer.outputs


def _rigl_paper(counted: Network, densities: Densities) -> dict[str, float]:
    layers = {layer.weight: _rigl(layer, densities.get(layer.weight, 1.0)) for layer in counted.layers}
    return layers | _matmuls(counted, 2)


def _rigl_compat_115(counted: Network, densities: Densities) -> dict[str, float]:
    """Count as the authors' notebook, which pads the stem's 224 px to 230 and halves that, ignoring the kernel."""
    stem = counted.layers[0]
    if stem.shape[2:] != (7, 7) or stem.positions != 112**2:
        raise UserError("rigl_compat_115: is a quirk of ImageNet ResNets at 224 px; valid here is rigl_paper")
    larger = Layer(stem.weight, stem.shape, 115**2, stem.outputs // 112**2 * 115**2)
    return _rigl_paper(counted, densities) | {stem.weight: _rigl(larger, densities.get(stem.weight, 1.0))}


def _dpf_counter(counted: Network, densities: Densities) -> dict[str, float]:
    layers = {layer.weight: layer.macs * densities.get(layer.weight, 1.0) for layer in counted.layers}
    return layers | _matmuls(counted, 1) | {ELEMENTWISE: counted.elementwise}


def _elth_paper(counted: Network, densities: Densities) -> dict[str, float]:
    """Count every layer at the global density; ImageNet's BasicBlock networks by depth instead of their own FLOPs.

    These count in proportion to their depth, from ResNet-34's FLOPs. Other networks keep their own FLOPs.
    """
    scale = counted.density(densities)
    share = None if counted.arch is None else architecture(counted.arch).depth_share
    if share is not None:
        largest = network(share.of, *architecture(share.of).published)
        scale *= share.share * largest.macs / counted.macs
    return {layer.weight: 2 * layer.macs * scale for layer in counted.layers} | _matmuls(counted, 2)


CONVENTIONS: Mapping[ConventionName, Convention] = {
    convention.name: convention
    for convention in (
        Convention(
            "exact",
            "2 FLOPs per multiply-accumulate: layers at their own density, attention dense; real shapes",
            _exact,
        ),
        Convention(
            "rigl_paper",
            "RigL, appendix H: as exact, and 1 for each output element of a layer; dense updates never end",
            _rigl_paper,
        ),
        Convention(
            "rigl_compat_115",
            "as rigl_paper, with the stem at 115 x 115 instead of 112 x 112 as in the authors' notebook",
            _rigl_compat_115,
        ),
        Convention(
            "dpf_counter",
            "kept weights x output positions (1 per multiply-accumulate), BatchNorm 2 and ReLU 1 per element, pooling",
            _dpf_counter,
        ),
        Convention(
            "elth_paper",
            "E-LTH, section 4.5: global density x FLOPs in proportion to depth; DPF as f_S + 2 f_D",
            _elth_paper,
        ),
    )
}
