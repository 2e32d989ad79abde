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
from elth_dist.jobs.kinds.imp import PretrainJob
from elth_dist.jobs.kinds.line import LineJob
from elth_dist.jobs.kinds.prune import PruneJob
from elth_dist.jobs.kinds.train import TrainJob
from elth_dist.jobs.kinds.transfer import TransferJob
from elth_dist.jobs.methods.ticket import TicketMethod
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
    # a seed: 3 x (rigl, rigl-5x); one dense run to r, 7 levels, 6 masks, 2 transfers, trained
    "imagenet_table2": ({"train": 24, "pretrain": 3, "level": 21, "mask": 18, "transfer": 6}, 27),
    # of imagenet_table1: what the tickets need; 3 x (random, snip, grasp), of which two have masks
    "imagenet_table1_elth_code": ({"pretrain": 9, "level": 63, "mask": 72, "train": 27}, 36),
    # a seed: 6 networks with 11 levels, dense, random, reinit; 2 targets at 2 levels for each
    "classifier_depth": ({"pretrain": 18, "level": 198, "mask": 180, "train": 126, "transfer": 72}, 144),
    "cifar10_ablation": ({"pretrain": 6, "level": 102, "mask": 144, "train": 606, "transfer": 432}, 612),
    "cifar10_table3": ({"pretrain": 9, "level": 126, "mask": 117, "transfer": 18, "train": 54}, 63),
    "cifar10_depths": ({"pretrain": 15, "level": 255, "mask": 600, "train": 1095, "transfer": 480}, 1110),
    "cifar10_vgg": ({"pretrain": 9, "level": 153, "mask": 360, "train": 513, "transfer": 144}, 522),
    # a seed: 3 x 11 levels and a second order of the last on ResNet-32; ticket and random masks in two orders for each
    # of three sources: 6 pairs, of which each has a line and a matrix
    "cifar10_connectivity": (
        {"pretrain": 9, "level": 102, "mask": 90, "train": 30, "line": 18, "distance": 18, "transfer": 6},
        42,
    ),
    # a seed and rewind step: a dense run to r, levels 0 to 10 and 5 more of one prune_fraction each, 15 masks, 15
    # reinit; one dense network
    "stabilizing_resnet50": ({"pretrain": 9, "level": 144, "mask": 135, "train": 138}, 192),
    # a seed and recipe: 26 levels and 6 second orders, 25 masks, reinit of each, one dense; lines: 25 between levels, 6
    "stable_batch": ({"pretrain": 18, "level": 576, "mask": 450, "train": 468, "line": 558, "distance": 126}, 1152),
    "repel": ({"pretrain": 6, "level": 204, "mask": 168, "train": 18, "line": 198, "distance": 36}, 252),
    "resnet50_101_152": ({"pretrain": 9, "level": 72, "mask": 63, "train": 81, "transfer": 36}, 90),
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


#: Every second of 16 levels.
LEVELS = tuple(f"mask-{level:02d}" for level in range(2, 17, 2))


def test_depths_are_figure_6() -> None:
    nets = [f"resnet{depth}_cifar" for depth in (14, 20, 32, 44, 56)]
    expected = {(*pair, level, ("order", "append")) for pair in pairs(nets) for level in LEVELS}
    assert transfers("cifar10_depths") == expected


def test_vggs_are_figure_7_and_imagenet_is_table_1() -> None:
    vggs = {(*pair, level) for pair in pairs(["vgg13", "vgg16", "vgg19"]) for level in LEVELS}
    assert transfers("cifar10_vgg") == vggs
    resnets = {(*pair, "mask-06") for pair in pairs(["resnet18", "resnet26", "resnet34"])}
    assert transfers("imagenet_table1") == resnets


@pytest.mark.parametrize("name", ["cifar10_depths", "cifar10_vgg"])
def test_curves_have_every_method_at_every_second_level(name: str) -> None:
    sweep = plan_sweep(SWEEPS / f"{name}.yaml")
    by_level = Counter(
        (sweep.jobs[job.job.inputs["ticket"]].label, job.job.options.alteration.name)
        for job in sweep.jobs.values()
        if isinstance(job.job.options, TrainJob) and job.job.options.alteration is not None
    )
    networks = 5 if name == "cifar10_depths" else 3
    assert by_level == {(level, control): 3 * networks for level in LEVELS for control in ("random", "reinit")}
    pruned = Counter(
        (sweep.jobs[job.job.inputs["like"]].label, job.job.options.criterion.name)
        for job in sweep.jobs.values()
        if isinstance(job.job.options, PruneJob)
    )
    criteria = ("magnitude", "snip", "grasp")
    assert pruned == {(level, criterion): 3 * networks for level in LEVELS for criterion in criteria}


def test_ablation_is_figures_3_to_5() -> None:
    grown = ("resnet32_cifar", "resnet56_cifar")
    orders: list[tuple[Any, ...]] = [(), (("order", "append"),)]
    units: list[tuple[Any, ...]] = [(), *((("units", chosen),) for chosen in ((1, 2), (2, 3), (3, 4)))]
    one = (*grown, ("units", (1,)))
    rules: set[tuple[Any, ...]] = {one, *((*grown, *order, *chosen) for order in orders for chosen in units)}
    kept: list[tuple[Any, ...]] = [(), (("squeeze", "strided"),), (("squeeze", "last"),)]
    shrunk = "resnet56_cifar"
    rules |= {(shrunk, to, *squeeze) for to in ("resnet20_cifar", "resnet32_cifar") for squeeze in kept}
    later = (f"0:0;{first}:1;{first + 1}:2;{first + 2}:3;{first + 3}:4" for first in (2, 3, 4))
    rules |= {(shrunk, "resnet32_cifar", ("plan", plan)) for plan in later}
    expected = {(source, to, level, *rule) for source, to, *rule in rules for level in LEVELS}
    assert transfers("cifar10_ablation") == expected


def test_positions_of_figure_5_are_all_runs_of_four_units_and_the_strided_ones() -> None:
    jobs = plan_sweep(SWEEPS / "cifar10_ablation.yaml").jobs.values()
    moves = [job.job.options.transfer for job in jobs if isinstance(job.job.options, TransferJob)]
    found = {move.plan_from("resnet56_cifar").stages[0] for move in moves if move.to == "resnet32_cifar"}
    assert found == {(0, *range(first, first + 4)) for first in range(1, 6)} | {(0, 1, 3, 5, 7)}


def test_figure_8_compares_two_orders_of_three_tickets_and_their_random_masks() -> None:
    sweep = plan_sweep(SWEEPS / "cifar10_connectivity.yaml")
    lines = [job for job in sweep.jobs.values() if isinstance(job.job.options, LineJob) and job.config.seed == 0]
    assert {job.job.options.line.alphas for job in lines} == {21}
    ends = [(sweep.jobs[job.job.inputs["one"]], sweep.jobs[job.job.inputs["other"]]) for job in lines]
    labels = ["level-10", *["random-resnet32_cifar"] * 3, *["train-resnet32_cifar"] * 2]
    expected = [(label, f"{label}-order-1") for label in labels]
    assert sorted((one.label, other.label) for one, other in ends) == expected
    assert {one.job.options.arch for one, _ in ends} == {"resnet32_cifar"}


def test_tables_6_and_7_train_moved_tickets_from_step_0(ticket_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ticket_files)
    sweep = plan_sweep(SWEEPS / "transfer_datasets.yaml")
    found = set()
    for job in sweep.jobs.values():
        method = job.config.method
        if isinstance(method, TicketMethod):
            options = method.model_dump()
            assert (options["classifier"], str(options["begin"])) == ("new", "0")
            found.add((Path(method.path).parts[1], job.config.data.name, job.config.model.arch))
    small, large = ("resnet20_cifar", "resnet32_cifar"), ("resnet18", "resnet26", "resnet34")
    expected = {("resnet20_imp_svhn", "cifar10", arch) for arch in small}
    expected |= {("resnet20_imp", "svhn", arch) for arch in small}
    expected |= {("resnet26_imp", "cifar10", arch) for arch in large}
    assert found == expected


def test_stabilizing_crosses_recipes_with_rewind_steps() -> None:
    sweep = plan_sweep(SWEEPS / "stabilizing_cifar.yaml")
    found = {
        (job.config.model.arch, job.config.train.lr, str(job.config.train.warmup), str(job.job.options.rewind))
        for job in sweep.jobs.values()
        if isinstance(job.job.options, PretrainJob)
    }
    rates = {
        "resnet20_cifar": [(0.1, "0"), (0.01, "0"), (0.03, "20000it")],
        "vgg19": [(0.1, "0"), (0.01, "0"), (0.1, "10000it")],
    }
    steps = ("0", "100it", "250it", "500it", "1000it", "2000it", "5000it")
    assert found == {(arch, *rate, step) for arch, chosen in rates.items() for rate in chosen for step in steps}


def test_batches_of_maene_and_their_warm_ups() -> None:
    sweep = plan_sweep(SWEEPS / "stable_batch.yaml")
    found = {(job.config.train.global_batch, str(job.config.train.warmup)) for job in sweep.jobs.values()}
    assert found == set(itertools.product((128, 1024, 2048), ("0", "10ep")))
    assert {job.config.train.weight_decay for job in sweep.jobs.values()} == {1e-5}
    reinits = Counter(
        sweep.jobs[job.job.inputs["ticket"]].label
        for job in sweep.jobs.values()
        if isinstance(job.job.options, TrainJob) and job.job.options.alteration is not None
    )
    assert reinits == {f"mask-{level:02d}": 3 * 6 for level in range(1, 26)}


def test_other_methods_are_tables_2_and_3() -> None:
    def trainings(name: str) -> set[tuple[Any, ...]]:
        jobs = [job.job.options for job in plan_sweep(SWEEPS / f"{name}.yaml").jobs.values()]
        return {
            (job.update.name, job.setting.model.arch, job.density, job.update.multiplier, job.setting.train.epochs)
            for job in jobs
            if isinstance(job, DynamicJob)
        }

    resnets, density = ("resnet18", "resnet26", "resnet34"), 0.262144
    assert trainings("imagenet_table2") == {("rigl", net, density, times, 90) for net in resnets for times in (1, 5)}
    small = ("resnet20_cifar", "resnet32_cifar", "resnet56_cifar")
    assert trainings("cifar10_table3") == {("dpf", net, kept, 1, 300) for net in small for kept in (0.1, 0.05)}
    found = transfers("cifar10_table3")
    assert transfers("imagenet_table2") == {("resnet26", to, "mask-06") for to in ("resnet18", "resnet34")}
    steps = [(f"resnet{a}_cifar", f"resnet{b}_cifar") for a, b in ((14, 20), (20, 32), (32, 56))]
    assert found == {(*step, level) for step in steps for level in ("mask-10", "mask-13")}


def test_every_shipped_sweep_is_a_graph_with_inputs_first(shipped: Path) -> None:
    sweep = plan_sweep(shipped)
    seen: set[str] = set()
    for name, job in sweep.jobs.items():
        assert set(job.inputs) <= seen
        seen.add(name)


def test_every_shipped_sweep_says_how_to_run_it_and_what_comes_of_it(shipped: Path) -> None:
    header = list(itertools.takewhile(lambda line: line.startswith("#"), shipped.read_text().splitlines()))
    assert header[0].startswith(f"# python launch/sweep.py {shipped.relative_to(REPOSITORY)} --cluster ")
    if shipped.parent == SWEEPS:
        text = "\n".join(header)
        assert "# Hardware: " in text
        assert "Time" in text
        assert "Accuracy" in text or "Expected" in text or "accuracy" in text


def test_every_sweep_of_a_paper_has_a_twin_and_a_place_in_the_index() -> None:
    ours = {"quickstart", "cifar10_cpu"}  # without a twin: they are small themselves
    names = {path.stem for path in SWEEPS.glob("*.yaml")}
    assert {path.stem for path in (SWEEPS / "digits").glob("*.yaml")} == names - ours
    index = (REPOSITORY / "docs/papers.md").read_text()
    assert [name for name in sorted(names) if f"`{name}" not in index] == []


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


def test_grid_is_every_combination(tmp_path: Path) -> None:
    experiment = {**BASE["experiments"][0], "grid": {"train.lr": [0.1, 0.01], "method.rewind": [0, "1ep"]}}
    sweep = planned(tmp_path, experiments=[experiment])
    found = {
        (job.config.train.lr, str(job.job.options.rewind))
        for job in sweep.jobs.values()
        if isinstance(job.job.options, PretrainJob)
    }
    assert found == {(0.1, "0"), (0.1, "1ep"), (0.01, "0"), (0.01, "1ep")}
    assert kinds(sweep) == {"pretrain": 4, "level": 12, "mask": 8}


def test_grid_is_the_experiments_written_out(tmp_path: Path) -> None:
    """A section as a value: learning rate and warm-up change together; overrides stay below the grid."""
    own, base = BASE["experiments"][0], {"epochs": 5, "lr": 0.2, "milestones": ["4ep"]}
    recipes = [{}, {"lr": 0.01}, {"lr": 0.03, "warmup": "2ep"}]
    grid = {"train": recipes, "train.momentum": [0.9, 0.5]}
    together = planned(tmp_path, experiments=[{**own, "overrides": {"train": base}, "grid": grid}])
    apart = planned(
        tmp_path,
        experiments=[
            {**own, "overrides": {"train": {**base, **recipe, "momentum": momentum}}}
            for recipe in recipes
            for momentum in (0.9, 0.5)
        ],
    )
    assert list(together.jobs) == list(apart.jobs)
    assert len(together.jobs) == 6 * len(planned(tmp_path).jobs)


def test_grid_of_transfers_takes_the_place_of_the_targets(tmp_path: Path) -> None:
    transfers = [[{"to": "resnet20_cifar"}], [{"to": "resnet26_cifar"}]]
    experiment = {**BASE["experiments"][0], "targets": ["resnet8_cifar"], "grid": {"method.transfers": transfers}}
    sweep = planned(tmp_path, experiments=[experiment])
    assert kinds(sweep)["transfer"] == 2
    assert not any(job.job.options.arch == "resnet8_cifar" for job in sweep.jobs.values())


def test_command_line_overrides_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    experiment = {**BASE["experiments"][0], "grid": {"train.lr": [0.1, 0.01]}}
    path.write_text(yaml.safe_dump({**BASE, "experiments": [experiment]}))
    assert {job.config.train.lr for job in plan_sweep(path, {"train": {"lr": 0.5}}).jobs.values()} == {0.5}


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
        (
            {"experiments": [{"sources": ["vgg16"], "grid": {"train.lr": []}}]},
            "experiments.0.grid.train.lr: Tuple should have at least 1 item",
        ),
        ({"experiments": [{"sources": ["vgg16"], "grid": {"train.lr": [0.1, 0.1]}}]}, "grid.train.lr: has 0.1 twice"),
        (
            {"experiments": [{"sources": ["vgg16"], "grid": {"model.arch": ["vgg13"]}}]},
            "grid.model.arch: set `sources` in the sweep file instead",
        ),
        (
            {"experiments": [{"sources": ["resnet14_cifar"], "grid": {"train.lrr": [0.1]}}]},
            "experiments.0: train.lrr: no such option",
        ),
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
