"""From a name to a network: built, and initialised without touching the global random state."""

import math

import torch
from torch import nn

from elth_dist.models.families import Architecture, architecture
from elth_dist.models.options import Init
from elth_dist.models.resnet import imagenet_resnet
from elth_dist.models.resnet_cifar import CifarResNet
from elth_dist.models.vgg import VGG


def blank_model(arch: str, num_classes: int) -> nn.Module:
    """The network on the meta device: names, shapes and dtypes without any memory or time.

    Its `architecture` attribute (see `architecture_of`) tells what it is. UserError if `arch` is unknown.
    """
    described = architecture(arch)
    assert num_classes >= 1, f"a classifier of {num_classes} classes"
    with torch.device("meta"):
        match described.family:
            case "resnet":
                model = imagenet_resnet(described, num_classes)
            case "resnet_cifar":
                model = CifarResNet(described, num_classes)
            case "vgg":
                model = VGG(described, num_classes)
    model.architecture = described  # type: ignore[assignment]  # nn.Module declares modules and tensors only
    return model


def build_model(arch: str, num_classes: int, *, init: Init = "paper", seed: int | None = None) -> nn.Module:
    """An initialised fp32 network on the CPU, in training mode.

    Args:
        arch: see `elth_dist.models.families.architecture`; UserError if unknown.
        num_classes: outputs of the classifier `fc`.
        init: "paper" (E-LTH: Kaiming normal with fan-in on conv and fc weights, BatchNorm gamma uniform in [0, 1) and
            beta 0, other biases 0; no zero-initialised residuals) or "torchvision" (its constructors' distributions).
        seed: the same seed gives the same bits, on any machine with this torch; None draws a new one. The global
            random state is neither read nor changed.
    """
    model = blank_model(arch, num_classes).to_empty(device="cpu")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    if init == "paper":
        _initialise_as_paper(model, generator)
    else:
        _initialise_as_torchvision(model, generator)
    return model


def architecture_of(model: nn.Module) -> Architecture:
    """What a network made here is; an assertion fails for any other (such as a wrapped one)."""
    described = getattr(model, "architecture", None)
    assert isinstance(described, Architecture), f"{type(model).__name__} was not made by build_model"
    return described


@torch.no_grad()
def _initialise_as_paper(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        else:
            _require_bare(module)


@torch.no_grad()
def _initialise_as_torchvision(model: nn.Module, generator: torch.Generator) -> None:
    vgg = architecture_of(model).family == "vgg"
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and vgg:
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        else:
            _require_bare(module)


def _require_bare(module: nn.Module) -> None:
    """No tensor may be left uninitialised."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    assert not own, f"no initialisation is known for {type(module).__name__}"
