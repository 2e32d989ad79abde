"""Networks for grey images, in a project whose loaders deliver three channels."""

from torch import Tensor, nn


class Grey(nn.Module):
    """The mean of R, G and B: images [B, 3, H, W] to [B, 1, H, W].

    Grey images (MNIST, digits) have three equal channels: the result is one of them, to the bit. It counts no FLOPs,
    as the papers' networks read one channel.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Average the channels of images that are normalised."""
        red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
        return red + ((green - red) + (blue - red)) / 3
