"""A sweep file as one graph: golden plans of the shipped sweeps, shared work once, names that stay."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, create_model

from elth_dist.errors import UserError
from elth_dist.jobs.kinds.dynamic import DynamicJob
from elth_dist.jobs.kinds.transfer import TransferJob
from elth_dist.sweeps import plan as plans
from elth_dist.sweeps.options import Needs
from elth_dist.sweeps.plan import Sweep, plan_sweep, read_job
from elth_dist.training.options import TrainOptions
from tests.helpers.ranks import REPOSITORY

SWEEPS = REPOSITORY / "configs/sweeps"
BASE: dict[str, Any] = {
    "recipe": str(REPOSITORY / "configs/quickstart_fast.yaml"),
    "experiments": [{"sources": ["resnet14_cifar"], "methods": [{"levels": 2, "controls": []}]}],
}


def planned(folder: Path, **changes: Any) -> Sweep:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}))
    return plan_sweep(path)


def kinds(sweep: Sweep) -> dict[str, int]:
    return dict(Counter(job.job.options.folder for job in sweep.jobs.values()))


# (jobs by kind, final networks), per sweep; change them only with a reason
GOLDEN = {
    "quickstart": ({"pretrain": 2, "level": 6, "mask": 4, "train": 8, "transfer": 4}, 10),
    # a seed: 3 dense runs to r, 3 x 7 levels, 18 IMP masks and 9 of the criteria, 6 transfers;
    # 6 trained transfers, 3 x (dense, reinit, random, magnitude, snip, grasp, rigl)
    "imagenet_table1": ({"pretrain": 9, "level": 63, "mask": 81, "transfer": 18, "train": 81}, 90),
    "imagenet_rigl": ({"train": 18}, 18),
    "cifar10_ablation": ({"pretrain": 6, "level": 66, "mask": 66, "train": 75, "transfer": 48}, 81),
    "cifar10_dpf": ({"pretrain": 9, "level": 126, "mask": 117, "transfer": 18, "train": 45}, 54),
    "cifar10_depths": ({"pretrain": 15, "level": 210, "mask": 195, "transfer": 240, "train": 255}, 270),
    "cifar10_vgg": ({"pretrain": 9, "level": 126, "mask": 117, "transfer": 72, "train": 90}, 99),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_plan(name: str) -> None:
    sweep = plan_sweep(SWEEPS / f"{name}.yaml")
    assert (kinds(sweep), len(sweep.finals)) == GOLDEN[name]


def transfers(name: str) -> set[tuple[Any, ...]]:
    """(source, target, whose mask it takes, options) of every transfer of a shipped sweep."""
    sweep, found = plan_sweep(SWEEPS / f"{name}.yaml"), set()
    for job in sweep.jobs.values():
        if isinstance(job.job.options, TransferJob):
            chosen = job.job.options.transfer.model_dump(exclude_defaults=True)
            ticket = sweep.jobs[job.job.inputs["ticket"]]
            found.add((ticket.config.model.arch, chosen.pop("to"), ticket.label, *sorted(chosen.items())))
    return found


def pairs(architectures: list[str]) -> list[tuple[str, str]]:
    return list(itertools.permutations(architectures, 2))


def test_depths_are_figure_6() -> None:
    nets = [f"resnet{depth}_cifar" for depth in (14, 20, 32, 44, 56)]
    levels = ("mask-05", "mask-08", "mask-10", "mask-13")
    expected = {(*pair, level, ("order", "append")) for pair in pairs(nets) for level in levels}
    assert transfers("cifar10_depths") == expected


def test_vggs_are_figure_7_and_imagenet_is_table_1() -> None:
    levels = ("mask-05", "mask-08", "mask-10", "mask-13")
    vggs = {(*pair, level) for pair in pairs(["vgg13", "vgg16", "vgg19"]) for level in levels}
    assert transfers("cifar10_vgg") == vggs
    resnets = {(*pair, "mask-06") for pair in pairs(["resnet18", "resnet26", "resnet34"])}
    assert transfers("imagenet_table1") == resnets


def test_ablation_is_figures_3_to_5() -> None:
    grown = ("resnet32_cifar", "resnet56_cifar", "mask-10")
    units = [(), *((("units", chosen),) for chosen in ((1,), (2,), (1, 2), (3, 4)))]
    orders: list[tuple[Any, ...]] = [(), (("order", "append"),)]
    expected = {(*grown, *order, *chosen) for order in orders for chosen in units}
    kept: list[tuple[Any, ...]] = [(), (("squeeze", "strided"),), (("squeeze", "last"),)]
    small = ("resnet20_cifar", "resnet32_cifar")
    expected |= {("resnet56_cifar", to, "mask-10", *squeeze) for to in small for squeeze in kept}
    assert transfers("cifar10_ablation") == expected


def test_other_methods_are_tables_2_and_3() -> None:
    def trainings(name: str) -> set[tuple[Any, ...]]:
        jobs = [job.job.options for job in plan_sweep(SWEEPS / f"{name}.yaml").jobs.values()]
        return {
            (job.update.name, job.setting.model.arch, job.density, job.update.multiplier, job.setting.train.epochs)
            for job in jobs
            if isinstance(job, DynamicJob)
        }

    resnets, density = ("resnet18", "resnet26", "resnet34"), 0.262144
    assert trainings("imagenet_rigl") == {("rigl", net, density, times, 90) for net in resnets for times in (1, 5)}
    small = ("resnet20_cifar", "resnet32_cifar", "resnet56_cifar")
    assert trainings("cifar10_dpf") == {("dpf", net, kept, 1, 300) for net in small for kept in (0.1, 0.05)}
    found = transfers("cifar10_dpf")
    steps = [(f"resnet{a}_cifar", f"resnet{b}_cifar") for a, b in ((14, 20), (20, 32), (32, 56))]
    assert found == {(*step, level) for step in steps for level in ("mask-10", "mask-13")}


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_is_a_graph_with_inputs_first(path: Path) -> None:
    sweep = plan_sweep(path)
    seen: set[str] = set()
    for name, job in sweep.jobs.items():
        assert set(job.inputs) <= seen
        seen.add(name)
    assert path.name in path.read_text().splitlines()[0], "the header says how to run it"


def test_ticket_of_one_source_serves_every_target() -> None:
    sweep = plan_sweep(SWEEPS / "imagenet_table1.yaml")
    transfers = [job for job in sweep.jobs.values() if job.job.options.name == "transfer"]
    assert len(transfers) == 18
    assert len({job.job.inputs["ticket"] for job in transfers}) == 9, "two targets each"


def test_shared_prefix_is_counted_once(tmp_path: Path) -> None:
    one = {"sources": ["resnet14_cifar"], "methods": [{"levels": 2, "controls": []}]}
    longer = {"sources": ["resnet14_cifar"], "methods": [{"levels": 3, "controls": []}], "targets": ["resnet20_cifar"]}
    both = planned(tmp_path, experiments=[one, longer])
    assert both.jobs.keys() == planned(tmp_path, experiments=[longer]).jobs.keys()


def test_data_seeds_share_the_dense_run_to_the_rewind_step(tmp_path: Path) -> None:
    experiment = {**BASE["experiments"][0], "data_seeds": [0, 1]}
    sweep = planned(tmp_path, experiments=[experiment])
    assert kinds(sweep) == {"pretrain": 1, "level": 6, "mask": 4}
    assert planned(tmp_path).jobs.keys() < sweep.jobs.keys(), "a seed's own data order is that of data_seed: null"


def test_another_seed_adds_its_own_jobs_alone(tmp_path: Path) -> None:
    before, after = planned(tmp_path, seeds=[0]), planned(tmp_path, seeds=[0, 1])
    assert before.jobs.keys() < after.jobs.keys()
    assert len(after.jobs) == 2 * len(before.jobs)
    groups = Counter(job.group for job in after.jobs.values())
    assert set(groups.values()) == {2}, "each job has one like it but for the seed"


def test_names_do_not_depend_on_place_cluster_or_order(tmp_path: Path) -> None:
    experiments = [
        {"sources": ["resnet14_cifar"], "methods": [{"levels": 1}]},
        {"sources": ["resnet20_cifar"], "methods": [{"levels": 1}]},
    ]
    one = planned(tmp_path, experiments=experiments)
    other = planned(tmp_path, experiments=experiments[::-1], needs={"gpus": 8}, overrides={"train": {"log_every": 3}})
    assert one.jobs.keys() == other.jobs.keys()


def test_names_stay_when_an_unrelated_default_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned(tmp_path)
    grown = create_model(
        "TrainOptions", __base__=TrainOptions, brand_new=(float, Field(default=0.5, description="new"))
    )
    whole = plans.Config

    class Grown(whole):  # type: ignore[misc, valid-type] # a class made at run time
        @property
        def setting(self) -> Any:
            setting = super().setting
            return setting.model_copy(update={"train": grown(**setting.train.model_dump())})

    monkeypatch.setattr(plans, "Config", Grown)
    after = planned(tmp_path)
    assert any("brand_new" in type(job.config.setting.train).model_fields for job in after.jobs.values())
    assert before.jobs.keys() == after.jobs.keys()


def test_job_is_found_again_from_its_written_configuration(tmp_path: Path) -> None:
    for name, job in planned(tmp_path).jobs.items():
        config, _, jobs = read_job(job.config.to_yaml(), name)
        assert jobs[name].job.identity == job.job.identity
        assert config.to_yaml() == job.config.to_yaml()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sedes": [0]}, "sedes: no such option; did you mean seeds?"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, got -1"),
        ({"recipe": "nowhere.yaml"}, "recipe: no file"),
        ({"experiments": [{"sources": ["resnet27"]}]}, "experiments.0.sources.0: unknown architecture 'resnet27'"),
        (
            {"experiments": [{"sources": ["resnet14_cifar"], "methods": [{"levles": 2}]}]},
            "experiments.0: method.levles: no such option; did you mean method.levels?",
        ),
        (
            {"experiments": [{"sources": ["resnet14_cifar"], "targets": ["vgg16"]}]},
            "experiments.0: method.transfers.0",
        ),
        ({"overrides": {"train": {"epoch": 2}}}, "train.epoch: no such option; did you mean train.epochs?"),
        (
            {"experiments": [{"sources": ["vgg16"], "overrides": {"seed": 3}}]},
            "overrides.seed: set `seeds` in the sweep file instead",
        ),
        (
            {"experiments": [{"sources": ["vgg16"], "overrides": {"method": {}}}]},
            "overrides.method: set `methods` in the sweep file",
        ),
        ({"overrides": {"model": {"arch": "vgg16"}}}, "overrides.model.arch: set `sources` in the sweep file instead"),
        ({"needs": {"time": "a day"}}, "needs.time: 'a day' is not a time"),
        ({"needs": {"time": 2, "notice": 120}}, "notice 120 s leaves no time to work: the limit, time, is 120 s"),
    ],
    ids=str,
)
def test_mistake_is_one_line_that_names_file_and_option(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, **changes)
    assert expected in str(caught.value)
    assert "tiny.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("1:30", 2), (90, 90), ("1:30:00", 90), ("0:00:30", 1), ("1-12:00:00", 2160)]
)
def test_times_are_slurms(text: Any, minutes: int) -> None:
    assert Needs(time=text, notice=10).time == minutes


def test_a_key_that_yaml_does_not_read_as_a_name_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump(BASE) + "on: {gpus: 0}\n")
    with pytest.raises(UserError, match=r"keys\.yaml: True is no name of a section of options"):
        plan_sweep(path)


def test_times_need_no_quotes(tmp_path: Path) -> None:
    """In YAML 1.1, 4:00:00 is a number of base 60."""
    path = tmp_path / "times.yaml"
    path.write_text(yaml.safe_dump(BASE) + "needs: {time: 4:00:00, notice: 60, memory: 1.5e+1}\n")
    needs = plan_sweep(path).options.needs
    assert (needs.time, needs.notice, needs.memory) == (240, 60, 15.0)
