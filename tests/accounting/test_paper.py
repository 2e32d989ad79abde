"""Golden: every published figure that FACTS gives, to its printed digits."""

import pytest

from elth_dist.accounting.conventions import ConventionName
from elth_dist.accounting.paper import LEVEL_6, Figure, as_printed, imagenet, relative, tables
from elth_dist.sparsity.distributions import Distribution

RIGL_5X = {
    ("uniform", 0.2): ("1.14", "0.23"),
    ("uniform", 0.1): ("0.66", "0.13"),
    ("uniform", 0.05): ("0.42", "0.08"),
    ("erk", 0.2): ("2.09", "0.42"),
    ("erk", 0.1): ("1.23", "0.24"),
    ("erk", 0.05): ("0.63", "0.12"),
}


@pytest.mark.parametrize(("distribution", "density"), RIGL_5X)
def test_rigl_5x_on_resnet50(distribution: Distribution, density: float) -> None:
    found = relative(imagenet("resnet50"), density, distribution, "rigl", "rigl_compat_115", multiplier=5)
    published = RIGL_5X[distribution, density]
    assert tuple(as_printed(value, digits) for value, digits in zip(found, published, strict=True)) == published


@pytest.mark.parametrize("convention", ["rigl_paper", "rigl_compat_115"])
@pytest.mark.parametrize(
    ("method", "distribution", "density", "published"),
    [("snfs", "erk", 0.2, "0.61"), ("snfs", "erk", 0.1, "0.50"), ("gradual", "uniform", 0.2, "0.56")],
)
def test_other_methods_on_resnet50(
    method: str, distribution: Distribution, density: float, published: str, convention: ConventionName
) -> None:
    found, _ = relative(imagenet("resnet50"), density, distribution, method, convention)
    assert as_printed(found, published) == published


#: At 73.79 % sparsity, one dense training of ResNet-34 being 1.
RESNETS = {
    ("uniform", "static"): ("0.154", "0.220", "0.286"),
    ("uniform", "rigl"): ("0.773", "1.107", "1.441"),
    ("erk", "static"): ("0.284", "0.388", "0.514"),
    ("erk", "rigl"): ("1.425", "1.944", "2.576"),
}


@pytest.mark.parametrize(("distribution", "method"), RESNETS)
def test_resnets_at_level_6(distribution: Distribution, method: str) -> None:
    for arch, published in zip(("resnet18", "resnet26", "resnet34"), RESNETS[distribution, method], strict=True):
        counted = imagenet(arch)
        found, _ = relative(counted, LEVEL_6, distribution, method, "exact", multiplier=5 if method == "rigl" else 1)
        assert as_printed(found * counted.macs / imagenet("resnet34").macs, published) == published, arch


def figures() -> dict[str, Figure]:
    return {f"{table.title.split(':')[0]}: {figure.what}": figure for table in tables() for figure in table.figures}


def test_every_published_figure_is_reproduced_but_one() -> None:
    stranger = {
        name for table in tables() for figure in table.figures if not figure.is_reproduced for name in [figure.what]
    }
    assert stranger == {"E-LTH, four networks", "E-LTH, all networks"}
    counted = [figure for table in tables() for figure in table.figures if figure.published == "1.26e9"]
    assert all(1.11e9 <= round(figure.exact[0], -7) <= 1.16e9 for figure in counted)


def test_real_flop_ratios_of_elth_imagenet() -> None:
    found = {figure.what: as_printed(figure.exact[0], "0.00") for figure in tables()[0].figures}
    assert found == {
        "RigL-5x, resnet18": "0.65",
        "RigL-5x, resnet26": "0.98",
        "RigL-5x, resnet34": "1.31",
        "training a ticket, resnet18": "0.13",
        "training a ticket, resnet26": "0.20",
        "training a ticket, resnet34": "0.26",
        "finding the level-6 mask, resnet26": "2.76",
    }
    ratios = [imagenet(arch).macs / imagenet("resnet34").macs for arch in ("resnet18", "resnet26")]
    assert [f"{ratio:.4f}" for ratio in ratios] == ["0.4951", "0.7476"]


def test_what_does_not_follow_is_told_apart() -> None:
    found = {figure.what: figure.follows for figure in tables()[0].figures}
    assert [what for what, follows in found.items() if not follows] == [
        "RigL-5x, resnet18",
        "RigL-5x, resnet34",
        "training a ticket, resnet18",
        "finding the level-6 mask, resnet26",
    ]


def test_as_printed() -> None:
    assert as_printed(0.1349, "0.20") == "0.13"
    assert as_printed(0.994, "1.0") == "1.0"
    assert as_printed(3.2202e18, "3.2e18") == "3.2e18"
    assert as_printed(1.4931e9, "1.49e9") == "1.49e9"
    assert as_printed(215.9, "216") == "216"
