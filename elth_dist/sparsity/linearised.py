"""The linearised network of SynFlow, whose gradients need no data."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LinearisedNetwork:
    """A copy of a network with the absolute values of its whole state, and BatchNorm in evaluation mode.

    R is the sum of its outputs for an image of ones (Tanaka et al. 2020, algorithm 1, and their code). It computes in
    float64, because in deep networks values leave the range of fp32.
    """

    def __init__(self, model: nn.Module, image_size: int) -> None:
        """`model` is copied, not changed."""
        self._model = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for tensor in self._model.state_dict().values():
                tensor.abs_()
        self._size = image_size

    def gradients(self, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run one forward and one backward pass of a single image through the network under `masks`.

        Returns:
            |mask w| and dR/d|mask w|, by name, float64, on the model's device.
        """
        parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            masked = {name: parameters[name] * mask for name, mask in masks.items()}
        for weight in masked.values():
            weight.requires_grad_()
        device = next(iter(masked.values())).device
        image = torch.ones(1, 3, self._size, self._size, dtype=torch.float64, device=device)
        output: Tensor = torch.func.functional_call(self._model, masked, (image,))
        slopes = torch.autograd.grad(output.sum(), list(masked.values()), materialize_grads=True)
        return {name: weight.detach() for name, weight in masked.items()}, dict(zip(masked, slopes, strict=True))
