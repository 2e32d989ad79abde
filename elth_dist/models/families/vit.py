"""Vision Transformers (Dosovitskiy et al. 2021) in the sizes of DeiT (Touvron et al. 2021), built by torchvision."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from elth_dist.models.options import Init

#: Width and attention heads by size; the MLP is four times as wide. Ti and S are DeiT's, XS is for small images.
_SIZES = {"xs": (64, 2), "ti": (192, 3), "s": (384, 6)}
_BLOCKS = {"xs": (4, 6, 8), "ti": (8, 12, 16), "s": (8, 12, 16)}
_NAME = re.compile(r"vit_(xs|ti|s)(\d{1,2})", re.ASCII)
_LARGEST = 8192


def patch_size(image_size: int) -> int:
    """The side of a patch in pixels: an eighth of the image's, at least 2 and at most 16.

    That is DeiT's 16 from 128 px on (14 x 14 patches at 224 px) and 8 x 8 patches below, down to 16 px.
    """
    return min(max(image_size // 8, 2), 16)


class ViT(Family):
    """Unit: an encoder block; all of them are one stage.

    The first block, which sees the patches as they are embedded, is invariant like every unit 0; so are patch and
    position embeddings, the class token, the last LayerNorm and the classifier.
    """

    name = "vit"
    names = tuple(f"vit_{size}{blocks}" for size, depths in _BLOCKS.items() for blocks in depths)
    published = Published(224, 1000)

    def architecture(self, name: str) -> Architecture | None:
        """One of `names`: the size and the number of blocks."""
        match = _NAME.fullmatch(name)
        if match is None or name not in self.names:
            return None
        return Architecture(name, self, f"{_width(name)}-wide encoder", (int(match[2]),))

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """Images of a multiple of the patch size (see `patch_size`)."""
        from torchvision.models.vision_transformer import VisionTransformer

        patch = patch_size(image_size)
        if image_size % patch or image_size > _LARGEST:
            nearest = min(max(image_size - image_size % patch, 2), _LARGEST)
            raise UserError(
                f"{architecture.name}: images of {image_size} px cannot be cut into patches of {patch} px; nearest "
                f"valid data.image_size is {nearest}"
            )
        width, heads = _SIZES[_size(architecture.name)]
        network: nn.Module = VisionTransformer(
            image_size=image_size,
            patch_size=patch,
            num_layers=architecture.units[0],
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
            num_classes=num_classes,
        )
        return network

    def initialise(self, model: "nn.Module", init: "Init", generator: "torch.Generator") -> None:
        """ "torchvision" is VisionTransformer's: the classifier starts at zero."""
        super().initialise(model, init, generator)
        if init == "torchvision":
            _as_vision_transformer(model, generator)

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        """An encoder block."""
        return (f"encoder.layers.encoder_layer_{unit}",)

    def classifier(self, architecture: Architecture) -> str:
        """Torchvision's name."""
        return "heads.head.weight"

    def image_size(self, architecture: Architecture, weights: "Mapping[str, Tensor]") -> int | None:
        """From patches and positions; None if those are of no network here."""
        positions, patches = weights.get("encoder.pos_embedding"), weights.get("conv_proj.weight")
        if positions is None or patches is None or positions.ndim != 3 or patches.ndim != 4:
            return None
        size = math.isqrt(max(positions.shape[1] - 1, 0)) * patches.shape[3]
        return size if 2 <= size <= _LARGEST and patch_size(size) == patches.shape[3] else None


def _size(name: str) -> str:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return match[1]


def _width(name: str) -> int:
    return _SIZES[_size(name)][0]


def _as_vision_transformer(model: "nn.Module", generator: "torch.Generator") -> None:
    """What VisionTransformer's constructor draws otherwise than its modules do."""
    import torch
    from torch import nn

    with torch.no_grad():
        for name, module in model.named_modules():
            if name == "conv_proj":
                assert isinstance(module, nn.Conv2d)
                std = math.sqrt(1 / module.weight[0].numel())
                nn.init.trunc_normal_(module.weight, std=std, generator=generator)
            elif name == "heads.head":
                assert isinstance(module, nn.Linear)
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear) and ".mlp." in name:
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.normal_(module.bias, std=1e-6, generator=generator)


families.add(ViT())
