"""What names say about networks."""

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import elth_dist
from elth_dist.errors import UserError
from elth_dist.models.build import blank_model
from elth_dist.models.families import architecture
from elth_dist.models.options import ModelOptions

NAMES = ["resnet18", "resnet26", "resnet50", "resnet8_cifar", "resnet20_cifar", "vgg13", "vgg16", "vgg19", "vit_xs4"]
NAMES += ["mlp_300x3"]
#: The first names of the keys outside of the units.
OUTSIDE = {"vgg": {"fc"}, "mlp": {"fc"}, "vit": {"class_token", "conv_proj", "encoder", "heads"}}


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
        ("vgg13_fc2", (2, 2, 2, 2, 2, 2)),
        ("vgg13_fc5", (2, 2, 2, 2, 2, 5)),
        ("mlp_300x3", (3,)),
        ("mlp_16x99", (99,)),
        ("vit_xs4", (4,)),
        ("vit_ti12", (12,)),
        ("vit_s16", (16,)),
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
    [
        ("resnet35", "resnet34"),
        ("resnet27", "resnet26"),
        ("resnet20-cifar", "resnet20_cifar"),
        ("vgg_16", "vgg16"),
        ("vit_s10", "vit_s12"),
        ("conv_4", "conv4"),
        ("lenet_300-100", "lenet_300_100"),
        ("mlp_0x3", "mlp_300x3"),
    ],
)
def test_a_typo_names_a_valid_network(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"{name!r}: did you mean '{nearest}'"):
        architecture(name)


@pytest.mark.parametrize(
    "name",
    ["", "resnet020_cifar", "resnet２0_cifar", "RESNET18", "resnet18\n", "vgg11", "vit_s012", "vit_b12", "Timm/x"],
)
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
    assert {key.split(".")[0] for key in outside} == OUTSIDE.get(network.family.name, {"conv1", "bn1", "fc"})
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
        ["vgg13_fc2", "vgg13_fc3", "vgg13_fc5"],
        ["mlp_300x2", "mlp_300x5"],
        ["mlp_301x2", "mlp_301x5"],
        ["vit_xs4", "vit_xs8"],
        ["vit_ti8", "vit_ti12", "vit_ti16"],
        ["vit_s8", "vit_s12", "vit_s16"],
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


def test_networks_of_libraries_are_named_by_their_form_and_move_nowhere() -> None:
    wide, tiny = architecture("torchvision/wide_resnet50_2"), architecture("timm/convnext_tiny.fb_in22k")
    assert (wide.family.name, wide.units, wide.slug) == ("torchvision", (), "torchvision-wide_resnet50_2")
    assert tiny.slug == "timm-convnext_tiny.fb_in22k"
    assert architecture("resnet18").slug == "resnet18"
    assert not wide.transfers_to(wide)
    for name in ("conv4", "lenet_300_100", "lenet5_caffe"):
        assert not architecture(name).transfers_to(architecture(name))
    assert wide.stage_of("layer1.0.conv1.weight") is None


def test_messages_name_every_family() -> None:
    with pytest.raises(UserError) as caught:
        architecture("nothing-like-it")
    for valid in ("resnet18", "resnet152", "vgg16", "vit_s12", "resnet(6n+2)_cifar", "torchvision/NAME", "timm/NAME"):
        assert valid in str(caught.value)
        assert valid in str(ModelOptions.model_fields["arch"].description)


def test_a_copy_and_a_pickle_are_of_the_same_family() -> None:
    for name in (*NAMES, "timm/convnext_tiny"):
        network = architecture(name)
        for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert again == network
            assert again.family is network.family


def test_only_the_family_compares_families() -> None:
    """A new family is one file: nothing else may ask which one it is, or know its classifier."""
    package = Path(elth_dist.__file__).parent
    forbidden = re.compile(r"family(\.name)? ==|\.block ==|[\"']fc\.weight[\"']")
    wrong = [
        str(path)
        for path in package.rglob("*.py")
        if path.parent.name != "families" and forbidden.search(path.read_text())
    ]
    assert wrong == []


def test_names_options_and_plans_need_no_torch() -> None:
    package = "elth_dist"
    modules = ", ".join(
        f"{package}.{name}"
        for name in ("models", "models.families", "models.options", "tickets.options", "tickets.plans")
    )
    code = f"import sys, {modules}; from elth_dist.tickets import plan_transfer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
