"""Small tickets whose every tensor can be told apart."""

from collections.abc import Callable, Iterator

import pytest
import torch

from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets.ticket import Ticket, TicketMeta

MakeTicket = Callable[..., Ticket]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_ticket() -> MakeTicket:
    return make


def make(
    arch: str = "resnet20_cifar",
    num_classes: int = 10,
    density: float = 0.3,
    seed: int = 0,
    image_size: int | None = None,
) -> Ticket:
    """Random masks; buffers unlike any fresh network's."""
    model = build_model(arch, num_classes, image_size, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(1000 + seed)
        else:
            buffer.uniform_(0.5, 1.5, generator=generator)
    prunable = prunable_weights(model, architecture(arch).excluded)
    masks = {name: torch.rand(weight.shape, generator=generator) < density for name, weight in prunable.items()}
    meta = TicketMeta(dataset="digits", level=5, rewind_step=200, criterion="magnitude", config="c0ffee")
    return Ticket(arch, model.state_dict(), Masks(masks), meta)
