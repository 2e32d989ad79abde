import pytest

from elth_dist.accounting.amortised import Recipe, amortised
from elth_dist.accounting.conventions import CONVENTIONS
from elth_dist.accounting.layers import Layer, Network
from elth_dist.accounting.paper import imagenet

EXACT = CONVENTIONS["exact"]


def square(size: int) -> Network:
    return Network((Layer("w", (size, size), 1, size),), 0)


def test_by_hand() -> None:
    recipe = Recipe(levels=1, prune_fraction=0.5, rewind=0.25, multiplier=5, interval=100)
    small, large = square(10), square(20)  # the large one costs 4 times as much
    rows = amortised(small, [("small", small), ("large", large)], recipe, EXACT)
    finding = 0.25 + 0.75  # the dense training of level 0, from the rewind step
    assert [row.one_for_all for row in rows] == pytest.approx([finding + 0.375, finding + 0.375 * 5])
    assert [row.imp for row in rows] == pytest.approx([1.375, 1.375 * 5])
    rigl = 5 * (0.5 + 0.5 / (3 * 101))
    assert [row.rigl for row in rows] == pytest.approx([rigl, rigl * 5])
    assert rows[1].dpf == pytest.approx(5 * rows[0].dpf)
    assert rows[1].targets == ("small", "large")


def test_one_ticket_for_all_pays_where_several_networks_are_wanted() -> None:
    targets = [(arch, imagenet(arch)) for arch in ("resnet26", "resnet18", "resnet34")]
    rows = amortised(imagenet("resnet26"), targets, Recipe(), EXACT)
    assert rows[0].one_for_all == pytest.approx(rows[0].imp), "for the source alone it is IMP"
    assert rows[-1].one_for_all < rows[-1].imp / 2
    gained = [row.imp - row.one_for_all for row in rows]
    assert gained == sorted(gained)


def test_a_distribution_stands_in_for_masks() -> None:
    costs = [
        amortised(imagenet("resnet18"), [("resnet18", imagenet("resnet18"))], Recipe(distribution=name), EXACT)[0].imp
        for name in (None, "uniform", "erk")
    ]
    assert costs == sorted(costs), "a dense stem costs more, ERK most"
