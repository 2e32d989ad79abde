"""A family from outside: registered by a plugin, and then like any other."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from elth_dist import registry
from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.models.options import ModelOptions
from elth_dist.plugins import load_plugins, plugin_of
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets import Ticket, transfer
from elth_dist.tickets.ticket import TicketMeta

SOURCE = '''
from elth_dist.models import Architecture, Family
from elth_dist.models.family import Published
from elth_dist.registry import families


class Mlp(Family):
    """Fully connected networks: linear layers of equal width, one stage."""

    name = "plugin_mlp"
    names = ("mlp3", "mlp5")
    published = Published(8, 10)

    def architecture(self, name):
        return Architecture(name, self, "linear", (int(name[3:]),), ("head.weight",)) if name in self.names else None

    def build(self, architecture, num_classes, image_size):
        from collections import OrderedDict

        from torch import nn

        layers = OrderedDict(flatten=nn.Flatten())
        width = 3 * image_size**2
        for unit in range(architecture.units[0]):
            layers[f"layer{unit}"] = nn.Sequential(nn.Linear(width, 16), nn.ReLU())
            width = 16
        layers["head"] = nn.Linear(16, num_classes)
        return nn.Sequential(layers)

    def unit_prefixes(self, architecture, stage, unit):
        return (f"layer{unit}",)


families.add(Mlp())
'''


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("plugin") / "mlp_family_plugin.py"
    path.write_text(SOURCE)
    load_plugins([str(path)])
    yield
    del registry.families._kinds["plugin_mlp"]
    sys.path.remove(str(path.parent))


def test_options_know_it_and_their_identity_names_the_plugin() -> None:
    identity = ModelOptions(arch="mlp3").identity()
    known = plugin_of("mlp_family_plugin")
    assert known is not None
    assert identity == {"arch": "mlp3", "plugin": known.to_json()}
    assert "plugin" not in ModelOptions(arch="vgg13").identity()


def test_it_is_built_pruned_and_moved(tmp_path: Path) -> None:
    described = architecture("mlp3")
    model = build_model("mlp3", 4, 6, seed=0)
    assert model(torch.zeros(2, 3, 6, 6)).shape == (2, 4)
    assert described.classifier == "head.weight"
    assert described.image_size(model.state_dict()) == 6
    prunable = prunable_weights(model, described.excluded)
    assert list(prunable) == ["layer0.0.weight", "layer1.0.weight", "layer2.0.weight"]
    masks = {name: weight > 0 for name, weight in prunable.items()}
    ticket = Ticket("mlp3", model.state_dict(), Masks(masks), TicketMeta(dataset="digits", level=1, rewind_step=0))
    ticket.save(tmp_path / "ticket.safetensors")
    moved = transfer(Ticket.load(tmp_path / "ticket.safetensors"), "mlp5")
    assert (moved.arch, moved.num_classes, moved.image_size) == ("mlp5", 4, 6)
    for new, old in enumerate((0, 1, 1, 2, 2)):
        assert torch.equal(moved.masks[f"layer{new}.0.weight"], masks[f"layer{old}.0.weight"])
    assert moved.model()(torch.zeros(2, 3, 6, 6)).shape == (2, 4)
