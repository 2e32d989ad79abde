"""What names say about networks."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model
from elth_dist.models.families import architecture
from elth_dist.models.options import ModelOptions

NAMES = ["resnet18", "resnet26", "resnet50", "resnet8_cifar", "resnet20_cifar", "vgg13", "vgg16", "vgg19"]


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("resnet18", (2, 2, 2, 2)),
        ("resnet26", (2, 3, 4, 3)),
        ("resnet34", (3, 4, 6, 3)),
        ("resnet50", (3, 4, 6, 3)),
        ("resnet101", (3, 4, 23, 3)),
        ("resnet152", (3, 8, 36, 3)),
        ("resnet14_cifar", (2, 2, 2)),
        ("resnet56_cifar", (9, 9, 9)),
        ("vgg13", (2, 2, 2, 2, 2)),
        ("vgg16", (2, 2, 3, 3, 3)),
        ("vgg19", (2, 2, 4, 4, 4)),
    ],
)
def test_units_are_those_of_the_papers(name: str, units: tuple[int, ...]) -> None:
    assert architecture(name).units == units


@given(st.integers(1, 200))
@settings(deadline=None)
def test_every_cifar_depth_6n_plus_2_has_n_units_a_stage(n: int) -> None:
    assert architecture(f"resnet{6 * n + 2}_cifar").units == (n, n, n)


@given(st.integers(0, 99_999))
@settings(deadline=None)
def test_a_wrong_cifar_depth_names_one_that_is_valid(depth: int) -> None:
    if 8 <= depth <= 1202 and depth % 6 == 2:
        depth += 1
    with pytest.raises(UserError, match="depths of CIFAR ResNets are 6n") as caught:
        architecture(f"resnet{depth}_cifar")
    nearest = str(caught.value).rsplit("'", 2)[1]
    n = architecture(nearest).units[0]
    assert abs(6 * n + 2 - depth) <= 3 or n in (1, 200)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet35", "resnet34"), ("resnet27", "resnet26"), ("resnet20-cifar", "resnet20_cifar"), ("vgg_16", "vgg16")],
)
def test_a_typo_names_a_valid_network(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"{name!r}: did you mean '{nearest}'"):
        architecture(name)


@pytest.mark.parametrize("name", ["", "resnet020_cifar", "resnet２0_cifar", "RESNET18", "resnet18\n", "vgg11"])
def test_names_are_exact(name: str) -> None:
    with pytest.raises(UserError, match="unknown architecture"):
        architecture(name)


@pytest.mark.parametrize("name", NAMES)
def test_units_own_every_tensor_but_stem_and_classifier(name: str) -> None:
    network = architecture(name)
    keys = list(blank_model(name, 10).state_dict())
    owned = [
        [key for key in keys for prefix in network.unit_prefixes(stage, unit) if key.startswith(f"{prefix}.")]
        for stage, units in enumerate(network.units)
        for unit in range(units)
    ]
    assert all(owned), "a unit without tensors"
    flat = [key for unit in owned for key in unit]
    assert len(flat) == len(set(flat)), "a tensor of two units"
    outside = [key for key in keys if key not in flat]
    assert {key.split(".")[0] for key in outside} == ({"fc"} if network.family == "vgg" else {"conv1", "bn1", "fc"})
    for stage, units in enumerate(network.units):
        for unit in range(units):
            for prefix in network.unit_prefixes(stage, unit):
                assert network.stage_of(f"{prefix}.weight") == stage
    assert all(network.stage_of(key) is None for key in outside)


@pytest.mark.parametrize("name", NAMES)
def test_units_after_the_first_have_equal_shapes(name: str) -> None:
    """What makes a unit movable within its stage - and the first one invariant."""
    network = architecture(name)
    state = blank_model(name, 10).state_dict()

    def shapes(stage: int, unit: int) -> list[tuple[int, str, tuple[int, ...]]]:
        return [
            (i, key.removeprefix(prefix), tuple(state[key].shape))
            for i, prefix in enumerate(network.unit_prefixes(stage, unit))
            for key in state
            if key.startswith(f"{prefix}.")
        ]

    for stage, units in enumerate(network.units):
        assert all(shapes(stage, unit) == shapes(stage, 1) for unit in range(2, units))


def test_transfers_stay_within_family_and_kind_of_unit() -> None:
    groups = [
        ["resnet18", "resnet26", "resnet34"],
        ["resnet50", "resnet101", "resnet152"],
        ["resnet20_cifar", "resnet56_cifar"],
        ["vgg13", "vgg16", "vgg19"],
    ]
    for i, group in enumerate(groups):
        for j, other in enumerate(groups):
            for source in group:
                assert all(architecture(source).transfers_to(architecture(target)) == (i == j) for target in other)


def test_options_check_the_name() -> None:
    assert ModelOptions(arch="resnet26").init == "paper"
    with pytest.raises(ValidationError, match="did you mean 'resnet26'"):
        ModelOptions(arch="resnet27")
    with pytest.raises(ValidationError, match="init"):
        ModelOptions(arch="resnet26", init="zeros")


def test_names_options_and_plans_need_no_torch() -> None:
    modules = "elth_dist.models.families, elth_dist.models.options, elth_dist.tickets.options, elth_dist.tickets.plans"
    code = f"import sys, {modules}; from elth_dist.tickets import plan_transfer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
