import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model
from elth_dist.sparsity.distributions import (
    DISTRIBUTIONS,
    MATCHED,
    Distribution,
    erk,
    layer_names,
    matched_counts,
    matched_uniform,
    uniform,
)
from elth_dist.sparsity.masks import prunable_weights

Shapes = Mapping[str, Sequence[int]]

shapes_of_layers = st.lists(
    st.lists(st.integers(1, 300), min_size=2, max_size=4).map(tuple), min_size=1, max_size=12
).map(lambda shapes: {f"layer{number}": shape for number, shape in enumerate(shapes)})
densities = st.floats(1e-4, 1)


def resnet50() -> Shapes:
    return {name: tuple(p.shape) for name, p in prunable_weights(blank_model("resnet50", 1000)).items()}


def total_density(shapes: Shapes, found: Mapping[str, float]) -> float:
    return sum(found[n] * math.prod(s) for n, s in shapes.items()) / sum(math.prod(s) for s in shapes.values())


def test_uniform_keeps_the_first_layer_dense_and_no_budget() -> None:
    shapes = {"conv1": (8, 3, 3, 3), "conv2": (8, 8, 3, 3), "fc": (10, 8)}
    assert uniform(shapes, 0.2) == {"conv1": 1.0, "conv2": 0.2, "fc": 0.2}
    assert uniform(shapes, 0.2, []) == dict.fromkeys(shapes, 0.2)


def test_erk_by_hand() -> None:
    # raw densities 1.0 (2+2 over 2*2), 0.2 and 0.2; a quarter of 204 weights is 51: the first layer's 4 are dense,
    # the 200 others share 47
    shapes = {"a": (2, 2), "b": (10, 10), "c": (10, 10)}
    found = erk(shapes, 0.25)
    assert found["a"] == 1.0
    assert found["b"] == found["c"] == pytest.approx(47 / 200)


def test_erk_counts_the_kernel() -> None:
    found = erk({"one": (64, 64, 1, 1), "three": (64, 64, 3, 3)}, 0.05)
    assert found["one"] / found["three"] == pytest.approx((130 / 4096) / (134 / 36864))


def test_erk_of_resnet50_keeps_the_small_layers() -> None:
    """At 20 %: the 1x1 convolutions in front are dense, the last stage's 3x3 ones the sparsest."""
    shapes = resnet50()
    found = erk(shapes, 0.2)
    in_front = {name for name in shapes if name.startswith("layer1") and shapes[name][2:] == (1, 1)}
    assert {name for name, density in found.items() if density == 1} == in_front | {"layer2.0.conv1.weight"}
    assert {found[f"layer4.{unit}.conv2.weight"] for unit in range(3)} == {min(found.values())}


@given(shapes_of_layers, densities)
def test_erk_keeps_the_density_and_the_order_of_layers(shapes: Shapes, density: float) -> None:
    found = erk(shapes, density)
    assert list(found) == list(shapes)
    assert all(0 < value <= 1 for value in found.values())
    assert total_density(shapes, found) == pytest.approx(density, rel=1e-9)
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    sparse = [found[name] / raw[name] for name in shapes if found[name] < 1]
    assert sparse == pytest.approx([sparse[0]] * len(sparse)) if sparse else True
    for a in shapes:
        for b in shapes:
            assert raw[a] < raw[b] or found[a] >= found[b] * (1 - 1e-12), "a sparser layer has the smaller ratio"


@given(shapes_of_layers)
def test_density_1_is_dense(shapes: Shapes) -> None:
    for distribute in DISTRIBUTIONS.values():
        assert distribute(shapes, 1.0) == dict.fromkeys(shapes, 1.0)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, math.nan])
def test_densities_out_of_range_and_no_layers(density: float) -> None:
    for distribute in DISTRIBUTIONS.values():
        with pytest.raises(ValueError, match="density"):
            distribute({"a": (2, 2)}, density)
        with pytest.raises(ValueError, match="no weights"):
            distribute({}, 0.5)


NAMES = ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"]


def test_names_of_layers() -> None:
    assert layer_names([], NAMES) == []
    assert layer_names(["last", "first", "fc"], NAMES) == ["conv1.weight", "fc.weight"]
    assert layer_names(["layer1.0.conv1.weight"], NAMES) == ["layer1.0.conv1.weight"]
    with pytest.raises(UserError, match=r"dense_layers: 'layer1.0.conv2' is no prunable.*mean 'layer1.0.conv1.weight'"):
        layer_names(["layer1.0.conv2"], NAMES)
    with pytest.raises(UserError, match=r"'classifier' is no prunable.*valid are first, last, 'conv1.weight' to"):
        layer_names(["classifier"], NAMES)


def test_layers_kept_dense_by_hand() -> None:
    shapes = {"a": (10, 10), "b": (10, 20), "c": (10, 10)}
    assert uniform(shapes, 0.4, ["c"]) == {"a": 0.4, "b": 0.4, "c": 1.0}
    assert matched_uniform(shapes, 0.4, ["c"]) == {"a": pytest.approx(0.2), "b": pytest.approx(0.2), "c": 1.0}
    assert matched_uniform(shapes, 0.4, []) == dict.fromkeys(shapes, 0.4)
    found = erk(shapes, 0.4, ["c"])  # 160 weights, of which 60 are left, shared as 20 to 30
    assert found == {"a": pytest.approx(24 / 100), "b": pytest.approx(36 / 200), "c": 1.0}
    for distribute in MATCHED.values():
        with pytest.raises(UserError, match=r"a, c alone keep 200 of 400 weights, a density of 50.000%, and leave"):
            distribute(shapes, 0.5, ["a", "c"])


@given(shapes_of_layers, st.data())
def test_a_tickets_number_of_weights_is_met_exactly(shapes: Shapes, data: st.DataObject) -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    name: Distribution = data.draw(st.sampled_from(["uniform", "erk"]))
    dense = data.draw(st.lists(st.sampled_from(list(sizes)), unique=True))
    whole = sum(sizes[layer] for layer in dense)
    total = sum(sizes.values())
    kept = data.draw(st.integers(min(whole + 1, total), total))
    densities = MATCHED[name](shapes, kept / total, dense)
    counts = matched_counts(shapes, densities, kept)
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == kept
    assert all(counts[layer] == sizes[layer] for layer in dense)
    sparse = [layer for layer in shapes if densities[layer] < 1]
    left = kept - sum(sizes[layer] for layer in shapes if layer not in sparse)
    assert all(0 <= counts[layer] <= sizes[layer] for layer in shapes)
    if left >= len(sparse):
        assert all(counts[layer] >= 1 for layer in sparse)
    if all(densities[layer] * sizes[layer] >= 1 for layer in sparse):
        assert all(abs(counts[layer] - densities[layer] * sizes[layer]) < 1 + 1e-6 for layer in sparse)


def test_largest_remainders_by_hand() -> None:
    shapes = {"a": (1, 10), "b": (1, 10), "c": (1, 10)}
    assert matched_counts(shapes, {"a": 0.25, "b": 0.28, "c": 0.27}, 8) == {"a": 2, "b": 3, "c": 3}
    assert matched_counts(shapes, dict.fromkeys(shapes, 7 / 30), 7) == {"a": 3, "b": 2, "c": 2}, "the first of equals"
    assert matched_counts(shapes, {"a": 0.02, "b": 0.02, "c": 0.96}, 10) == {"a": 1, "b": 1, "c": 8}, "none is empty"
    assert matched_counts(shapes, {"a": 0.02, "b": 0.02, "c": 0.16}, 2) == {"a": 0, "b": 0, "c": 2}, (
        "no weight for each"
    )


def test_the_quickstarts_uniform_control_is_met_to_the_weight() -> None:
    """At 1 % of ResNet-14 the first layer alone holds 432 of 1,789 weights: uniform kept 24 % too many."""
    shapes = {name: tuple(p.shape) for name, p in prunable_weights(blank_model("resnet14_cifar", 10)).items()}
    total = sum(math.prod(shape) for shape in shapes.values())
    kept = math.ceil(0.01024 * total)
    before = sum(math.ceil(density * math.prod(shapes[name])) for name, density in uniform(shapes, 0.01024).items())
    assert before > 1.2 * kept
    counts = matched_counts(shapes, MATCHED["uniform"](shapes, kept / total), kept)
    assert sum(counts.values()) == kept
    assert counts["conv1.weight"] == 432
