import pytest
from hypothesis import given
from hypothesis import strategies as st

from elth_dist.accounting.methods import imp_cost, training_cost
from elth_dist.sparsity.updates.base import step_cost
from elth_dist.sparsity.updates.dpf import Dpf
from elth_dist.sparsity.updates.gradual import Gradual
from elth_dist.sparsity.updates.rigl import Rigl
from elth_dist.sparsity.updates.schedules import mean_cubic_share

costs = st.floats(0, 1)


def test_formulae_of_rigls_appendix_h() -> None:
    f_s, f_d = 2.0, 10.0
    found = {m: training_cost(m, f_s, f_d) for m in ("dense", "static", "snip", "set", "snfs")}
    assert found == {"dense": 30, "static": 6, "snip": 6, "set": 6, "snfs": 14}
    assert training_cost("rigl", f_s, f_d) == pytest.approx((3 * f_s * 100 + 2 * f_s + f_d) / 101)
    assert training_cost(Rigl(delta_t=1), f_s, f_d) == (6 + 14) / 2


def test_elth_counts_dpf_and_rigl_in_its_own_way() -> None:
    assert training_cost("dpf", 2.0, 10.0, convention="elth_paper") == 22
    assert training_cost("rigl", 2.0, 10.0, convention="elth_paper") == 6


def test_ramp_of_gradual_pruning() -> None:
    share = mean_cubic_share(25, 75, 100, every=25)
    assert share == (0 + 0 + (1 - 0.5**3) + 1 + 1) / 5
    f_s, f_d = 2.0, 10.0
    mean = f_d - share * (f_d - f_s)
    points = {"begin": 0.25, "end": 0.75, "every": 25}
    assert training_cost(Gradual.model_validate(points), f_s, f_d, total_steps=100) == 3 * mean
    assert training_cost(Dpf.model_validate(points), f_s, f_d, total_steps=100) == 2 * mean + f_d


@given(costs, st.sampled_from(["static", "snip", "set", "snfs", "gradual", "rigl", "dpf"]))
def test_no_method_costs_less_than_static_or_more_than_dense(sparse: float, method: str) -> None:
    found = training_cost(method, sparse, 1.0)
    assert 3 * sparse - 1e-12 <= found <= 3 + 1e-12
    assert training_cost(method, 1.0, 1.0) == pytest.approx(3)


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_steps_are_counted_exactly_in_integers(sparse: int, dense: int) -> None:
    assert step_cost(sparse, dense) == 3 * sparse
    assert step_cost(sparse, dense, dense_gradient=True) == 2 * sparse + dense


def test_imp_trains_to_the_rewind_step_and_then_every_level() -> None:
    levels = [0.8**level for level in range(7)]
    assert imp_cost(levels, 0.0, last_training=False) / 3 == pytest.approx(3.68928)
    assert imp_cost(levels, 0.1) == pytest.approx(3 * (0.1 + 0.9 * sum(levels)))
    assert imp_cost(levels, 0.1, last_training=False) == pytest.approx(3 * (0.1 + 0.9 * sum(levels[:-1])))


def test_ramps_are_the_papers() -> None:
    assert (*Gradual().ramp(Gradual.published_steps, 1), Gradual.published_steps) == (10_000, 25_000, 32_000)
    assert Gradual().every == 1000
    assert Dpf().ramp(Dpf.published_steps, 1)[1] / Dpf.published_steps == 0.75
