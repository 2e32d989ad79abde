"""Kinds by name: those of a plugin are as good as ours, and what is no kind is said in one line."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from elth_dist.config import Config, merge, read_yaml
from elth_dist.errors import UserError
from elth_dist.jobs.controls import Alteration
from elth_dist.jobs.graph import Graph, Job
from elth_dist.jobs.kinds.prune import PruneJob
from elth_dist.plugins import plugin_of
from elth_dist.registry import Registry, controls, criteria
from elth_dist.sparsity.criteria import AnyCriterion, Criterion, Evidence
from elth_dist.sparsity.criteria.magnitude import Magnitude
from tests.helpers.ranks import REPOSITORY

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


class Smallest(Criterion):
    """A criterion from outside the house: this module is its plugin."""

    label: ClassVar[str] = "smallest first"
    name: Literal["smallest"] = "smallest"
    power: float = 2.0

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        return {name: weight.detach().abs() ** self.power for name, weight in evidence.weights.items()}


@pytest.fixture
def registered() -> Iterator[None]:
    criteria.add(Smallest)
    yield
    del criteria._kinds["smallest"]
    Smallest.registered = False


def config(**method: Any) -> Config:
    base = read_yaml(REPOSITORY / "configs/quickstart_fast.yaml")
    return Config(**merge({**base, "method": method}, {}))


def planned(**method: Any) -> dict[str, Job]:
    graph, whole = Graph(), config(**method)
    whole.method.plan(graph, whole.setting)
    return {job.name: job for job in graph.jobs}


def test_a_kind_from_outside_is_a_method(registered: None) -> None:
    jobs = planned(name="smallest", density=0.1, power=3.0)
    assert list(jobs) == ["pretrain", "mask", "train"]
    pruning = jobs["mask"].options
    assert isinstance(pruning, PruneJob)
    assert pruning.criterion == Smallest(power=3.0)
    whole = config(name="smallest", density=0.1, power=3.0)
    assert Config(**whole.model_dump(mode="json")) == whole, "what is written reads back"


def test_a_kind_from_outside_is_a_control(registered: None) -> None:
    imp = {"name": "imp", "levels": 1, "controls": ["smallest", {"name": "smallest", "power": 1.0}]}
    masks = [job.options for job in planned(**imp).values() if isinstance(job.options, PruneJob)]
    assert [options.criterion for options in masks] == [Smallest(), Smallest(power=1.0)]


def test_the_options_of_a_kind_from_outside_are_checked(registered: None) -> None:
    with pytest.raises(ValidationError) as caught:
        config(name="smallest", density=0.1, power="much", pwoer=2)
    assert {error["loc"]: error["type"] for error in caught.value.errors()} == {
        ("method", "power"): "float_parsing",
        ("method", "pwoer"): "extra_forbidden",
    }


def test_jobs_that_use_a_plugin_name_it_and_its_content(registered: None) -> None:
    jobs = planned(name="smallest", density=0.1)
    source = Path(__file__).read_bytes()
    plugin = jobs["mask"].part["criterion"]["plugin"]
    package = __name__.partition(".")[0]
    assert plugin == plugin_of(__name__).to_json()  # type: ignore[union-attr]
    assert plugin["name"] == package
    if package == __name__:  # tests have no __init__.py: a module by itself
        assert plugin["sha256"] == hashlib.sha256(Path(__file__).name.encode() + b"\0" + source).hexdigest()
    for name in ("pretrain", "train"):
        assert "plugin" not in str(jobs[name].part), name


class Untouched(Alteration):
    """A control from outside that changes nothing."""

    label: ClassVar[str] = "untouched"
    name: Literal["untouched"] = "untouched"

    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        return ticket


def test_a_training_of_a_plugins_control_names_the_plugin() -> None:
    controls.add(Untouched)
    try:
        jobs = planned(name="imp", levels=1, controls=["untouched", "random"])
    finally:
        del controls._kinds["untouched"]
    assert jobs["untouched-resnet14_cifar"].part["control"]["plugin"] == plugin_of(__name__).to_json()  # type: ignore[union-attr]
    assert "plugin" not in jobs["random-resnet14_cifar"].part


def test_jobs_that_use_no_plugin_keep_their_identities() -> None:
    imp = {"name": "imp", "levels": 1, "controls": ["magnitude", "rigl"]}
    before = {name: job.identity for name, job in planned(**imp).items()}
    criteria.add(Smallest)
    try:
        after = {
            name: job.identity for name, job in planned(**{**imp, "controls": [*imp["controls"], "smallest"]}).items()
        }  # type: ignore[misc]
    finally:
        del criteria._kinds["smallest"]
        Smallest.registered = False
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2


def test_two_kinds_of_one_name_are_a_mistake_that_names_both(registered: None) -> None:
    class Other(Smallest):
        pass

    with pytest.raises(UserError, match=rf"criterion 'smallest' is registered twice: by {__name__}\.Smallest and by "):
        criteria.add(Other)
    with pytest.raises(UserError, match=r"Magnitude and by .*Mine"):

        @criteria.add
        class Mine(Criterion):
            name: Literal["magnitude"] = "magnitude"

    assert criteria["magnitude"] is Magnitude
    assert criteria["smallest"] is criteria.add(Smallest), "the same once more is none"


def test_a_registry_is_a_mapping_in_the_order_of_registration() -> None:
    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

    things: Registry[Thing] = Registry("thing")
    one, two = things.add(Thing("one")), things.add(Thing("two"))
    assert dict(things) == {"one": one, "two": two}
    assert list(things) == ["one", "two"]
    assert "dense" in controls


def problem(value: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter[Any](AnyCriterion).validate_python(value)
    [error] = caught.value.errors()
    return error["type"], error["msg"]


def test_what_is_no_kind_is_said() -> None:
    valid = ", ".join(criteria)
    assert problem(3) == ("kind_form", "must be one criterion: a name, or an object with name and options")
    assert problem(["snip"]) == ("kind_form", "must be one criterion: a name, or an object with name and options")
    assert problem({"batches": 2}) == ("kind_missing", f"is required; valid are {valid}")
    assert problem("wanda") == ("kind_unknown", f"unknown criterion 'wanda'; valid are {valid}")
    assert problem({"name": "snipp"}) == (
        "kind_unknown",
        f"unknown criterion 'snipp'; did you mean snip?; valid are {valid}",
    )
    assert problem({"name": 3}) == ("kind_unknown", f"unknown criterion 3; valid are {valid}")
    assert problem({"name": "snip", "bathces": 2}) == ("extra_forbidden", "Extra inputs are not permitted")


def test_a_name_alone_and_ready_options_are_kinds() -> None:
    adapter = TypeAdapter[Any](AnyCriterion)
    assert adapter.validate_python("magnitude") == adapter.validate_python({"name": "magnitude"}) == Magnitude()
    assert adapter.validate_python(Magnitude()) == Magnitude()
    assert adapter.dump_python(Magnitude()) == {"name": "magnitude", "matched": "global", "dense_layers": ()}
    schema = adapter.json_schema()
    assert schema["anyOf"][0]["enum"] == list(criteria)


def test_a_list_of_kinds_says_which_one_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        config(name="imp", controls=["dense", "wanda"])
    [error] = caught.value.errors()
    assert error["loc"] == ("method", "controls", 1)
    assert error["msg"].startswith("unknown control 'wanda'; ")
