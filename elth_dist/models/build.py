"""From a name to a network: built, and initialised without touching the global random state."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from elth_dist.errors import UserError
from elth_dist.models.families import Architecture, architecture
from elth_dist.models.options import Init


def blank_model(arch: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    """The network on the meta device: names, shapes and dtypes without any memory or time.

    Its `architecture` attribute (see `architecture_of`) tells what it is.

    Args:
        arch: see `elth_dist.models.families.architecture`.
        num_classes: outputs of the classifier.
        image_size: in pixels, where shapes depend on it; None: the family's published one.

    Raises:
        UserError: `arch` is unknown, or has no network for that image size.
    """
    described = architecture(arch)
    family = described.family
    arguments = described, num_classes, described.published.image_size if image_size is None else image_size
    assert num_classes >= 1, f"a classifier of {num_classes} classes"
    try:
        with torch.device("meta"):
            model = family.build(*arguments)
    except Exception:
        if not family.initialises_itself:
            raise
        # a constructor that reads values of its tensors
        model = _build(*arguments, torch.Generator()).to("meta")
    return _described(model, described)


def build_model(
    arch: str,
    num_classes: int,
    image_size: int | None = None,
    *,
    init: Init = "paper",
    seed: int | None = None,
) -> nn.Module:
    """An initialised fp32 network on the CPU, in training mode.

    Args:
        arch: see `elth_dist.models.families.architecture`; UserError if unknown.
        num_classes: outputs of the classifier.
        image_size: in pixels, where the network depends on it; None: the family's published one.
        init: "paper" (E-LTH: Kaiming normal with fan-in on conv and fc weights, BatchNorm gamma uniform in [0, 1) and
            beta 0, other biases 0; no zero-initialised residuals), "torchvision" (its constructors' distributions;
            for timm's networks, timm's) or "glorot" (Frankle & Carbin 2019: Glorot normal, biases 0). Parameters of
            other modules of a library's network are its constructor's.
        seed: the same seed gives the same bits, on any machine with this torch; None draws a new one. The global
            random state is neither read nor changed.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    model = _allocated(arch, num_classes, image_size, generator)
    architecture_of(model).family.initialise(model, init, generator)
    return model


def model_from(arch: str, weights: Mapping[str, Tensor], image_size: int | None = None) -> nn.Module:
    """A network on the CPU, in training mode, that holds a copy of `weights`.

    Args:
        arch: see `elth_dist.models.families.architecture`.
        weights: a whole state_dict of it; ValueError without the classifier, RuntimeError if it does not fit.
        image_size: in pixels; None: the size that the shapes are for, or the published one.

    Raises:
        UserError: `arch` is unknown, or the weights are for another image size.
    """
    described = architecture(arch)
    fitting = described.image_size(weights)
    size = fitting if image_size is None else image_size
    model = _allocated(arch, described.num_classes(weights), size, torch.Generator())
    if fitting is not None and size != fitting:
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if any(weights[name].shape != shape for name, shape in shapes.items() if name in weights):
            raise UserError(f"{arch}: the weights are for images of {fitting} px, not of {size} px")
    model.load_state_dict(weights)
    return model


def check_model(arch: str, num_classes: int, image_size: int) -> None:
    """Find out on the meta device, without memory or arithmetic, whether a network can be trained on such images.

    Raises:
        UserError: `arch` is unknown, cannot be built or called for that image size, or gives no logits
            [B, num_classes].
    """
    model = blank_model(arch, num_classes, image_size).eval()
    try:
        with torch.no_grad():
            logits = model(torch.empty(2, 3, image_size, image_size, device="meta"))
    except Exception as error:  # whatever a network raises
        reason = " ".join(str(error).split())
        raise UserError(f"{arch}: cannot take images of {image_size} px: {reason}") from error
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [2, num_classes]:
        raise UserError(f"{arch}: is no classifier of images: it gives {shape} for 2 images, {num_classes} classes")


def architecture_of(model: nn.Module) -> Architecture:
    """What a network made here is; an assertion fails for any other (such as a wrapped one)."""
    described = getattr(model, "architecture", None)
    assert isinstance(described, Architecture), f"{type(model).__name__} was not made by build_model"
    return described


def _allocated(arch: str, num_classes: int, image_size: int | None, generator: torch.Generator) -> nn.Module:
    """The network on the CPU, before `Family.initialise`."""
    described = architecture(arch)
    if not described.family.initialises_itself:
        return blank_model(arch, num_classes, image_size).to_empty(device="cpu")
    assert num_classes >= 1, f"a classifier of {num_classes} classes"
    size = described.published.image_size if image_size is None else image_size
    return _described(_build(described, num_classes, size, generator), described)


def _build(described: Architecture, num_classes: int, image_size: int, generator: torch.Generator) -> nn.Module:
    """Build on the CPU with the global random state seeded from `generator`, and restored afterwards."""
    seed = int(torch.randint(1 << 62, (), generator=generator))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return described.family.build(described, num_classes, image_size)


def _described(model: nn.Module, described: Architecture) -> nn.Module:
    model.architecture = described  # type: ignore[assignment]  # nn.Module declares modules and tensors only
    return model
