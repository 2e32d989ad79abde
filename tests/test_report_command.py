"""`python -m elth_dist.reporting` on a real run: pages that need nothing else, papers' layouts, list and compare."""

import base64
import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from elth_dist.registry import paper_figures
from elth_dist.report_command import main, together
from elth_dist.reporting.page import sections_of
from elth_dist.reporting.papers import figures_named
from elth_dist.reporting.records import Record, Results, to_csv
from elth_dist.runs import load_results
from elth_dist.sweeps.command import main as sweep
from elth_dist.train import main as train
from tests.helpers.runs import BASE
from tests.reporting.test_tensorboard_server import BROWSERS

Capture = pytest.CaptureFixture[str]
RUN = [
    *BASE,
    "--data.loader=resident",
    "--train.epochs=1",
    "--train.milestones=[]",
    "--train.bn=running",
    "--train.bn_batches=2",
    "--method.levels=2",
    "--method.rewind=2it",
    "--method.transfers=[{to: resnet8_cifar}]",
    "--method.controls=[dense, random]",
    "--method.stability={consecutive: true, line: {alphas: 3, train_batches: 1}}",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert train([*RUN, "--run.dir", str(folder), "--run.name", "one"]) == 0
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return load_results(run)


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "report"
    chosen = ["elth_figure6", "elth_figure8", "stabilizing_accuracy", "maene_matrices", "elth_table3"]
    figures = [argument for name in chosen for argument in ("-f", name)]
    assert main([str(run), "-o", str(folder), *figures]) == 0
    return folder


def test_records_lines_and_distances_are_read_back(run: Path, results: Results) -> None:
    assert [record.job for record in results.records][:3] == ["level-00", "level-01", "level-02"]
    assert results.title == "one"
    assert not results.notes
    for record in results.records:
        metrics = json.loads((run / record.job / "result.json").read_text())["metrics"]
        assert (record.top1, record.reestimated_top1) == (metrics["top1"], metrics["reestimated_top1"])
        assert record.reestimated_batches == 2
    orders = [record for record in results.records if record.data_order]
    assert [(record.job, record.seeds) for record in orders] == [
        ("level-02-order-1", "0#1"),
        ("train-resnet8_cifar-order-1", "0#1"),
    ]
    usual = {record.job: record for record in results.records}
    assert usual["level-02"].group == usual["level-02-order-1"].group, "a data order is a repetition"
    lines = {line.job: line for line in results.lines}
    assert lines["line-level-02"].ends == ("level-02", "level-02-order-1")
    assert lines["line-level-02"].one is usual["level-02"]
    written = json.loads((run / "line-level-02/result.json").read_text())["metrics"]
    assert list(lines["line-level-02"].errors["val_reestimated"]) == written["line"]["val_reestimated"]["error"]
    assert lines["line-level-02"].barriers == written["barriers"]
    [levels] = [found for found in results.distances if found.job == "distance-levels"]
    assert [end.level for end in levels.networks if end is not None] == [0, 1, 2]


class Page(html.parser.HTMLParser):
    """What a page shows, and what it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [found["href"] or ""] if "href" in found else []
        self.images += [found["src"] or ""] if "src" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_page_needs_nothing_else(report: Path, results: Results) -> None:
    text = (report / "index.html").read_text()
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\(|@import|http://|https://", text)
    assert len(page.images) >= 9
    for image in page.images:
        kind, _, data = page.images[0].partition(",")
        assert kind == "data:image/svg+xml;base64"
        drawn = base64.b64decode(data).decode()
        assert "</svg>" in drawn
        assert not re.search(r'(href|src)="(?!#)', drawn), image[:80]
    for heading in ("Results", "Cost", "Levels", "Linear mode connectivity", "Distances", "elth_figure8"):
        assert heading in page.headings
    assert "The records that it needs are not there." in text, "elth_table3 has no DPF"
    for record in results.records:
        assert any(record.job in cell for cell in page.cells), record.job


def test_markdown_csv_and_json_have_the_same(report: Path, results: Results) -> None:
    text = (report / "report.md").read_text()
    assert all((report / name).is_file() for name in re.findall(r"\]\((figures/.*?)\)", text))
    assert (report / "records.csv").read_text() == to_csv(results.records)
    lines = list(csv.DictReader((report / "records.csv").read_text().splitlines()))
    assert [line["job"] for line in lines] == [record.job for record in results.records]
    found = json.loads((report / "records.json").read_text())
    assert [line["job"] for line in found["lines"]] == [line.job for line in results.lines]
    assert len(found["distances"]) == len(results.distances)
    names = {path.stem for path in (report / "figures").iterdir()}
    for name in names:
        assert (report / f"figures/{name}.svg").is_file()
        with Image.open(report / f"figures/{name}.png") as image:
            image.verify()
    assert {"accuracy", "flops", "overlap", "layers", "magnitudes", "lines", "distances", "maene_matrices"} <= names


def test_a_browser_draws_the_page(report: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)})")
    shot = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--no-proxy-server", "--window-size=1200,6000", f"--screenshot={shot}", f"file://{report}/index.html"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    image = Image.open(shot).convert("RGB")
    assert image.size == (1200, 6000)
    colours = {colour for _, colour in image.getcolors(1 << 24) or []}
    assert (0, 114, 178) in colours, "IMP's blue: figures are drawn"


def test_without_names_only_figures_of_the_dataset_are_drawn(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main([str(run), "-o", str(tmp_path / "report"), "--no-weights"]) == 0
    out = capsys.readouterr().out
    assert "Results: 1 table, 1 figure" in out
    assert "elth_" not in out, "digits are no paper's dataset"
    assert not (tmp_path / "report/figures/magnitudes.png").exists()


def test_several_runs_are_reported_together(run: Path, results: Results, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    both = together([results, load_results(other)])
    assert len(both.records) == 2 * len(results.records)
    assert main([str(run), str(other), "-o", str(tmp_path / "report"), "--no-weights"]) == 0
    heading, _, *rows = [
        line.split(" | ") for line in (tmp_path / "report/tables/results.md").read_text().splitlines() if " | " in line
    ]
    assert {row[heading.index("n")] for row in rows} <= {"1", "2"}, "equal jobs count once"


def test_list(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["list", str(run.parent)]) == 0
    heading, _, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "method", "network", "jobs", "best", "top-1", "%"]
    jobs = len(list(run.glob("*/result.json")))
    best = max(json.loads(path.read_text())["metrics"].get("top1", 0) for path in run.glob("*/result.json"))
    assert re.split(r"\s{2,}", line.strip())[-4:] == ["imp", "resnet14_cifar", f"{jobs}/{jobs}", f"{100 * best:.2f}"]
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half/level-02/result.json").unlink()
    assert main(["list", str(tmp_path)]) == 0
    assert f"{jobs - 1}/{jobs}" in capsys.readouterr().out


def test_compare(run: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert main(["compare", str(run), str(other)]) == 0
    assert capsys.readouterr().out == "options: no difference\nresults: no difference\n"
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["train"]["lr"] = 0.2
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((other / "level-00/result.json").read_text())
    result["metrics"]["top1"] += 0.125
    (other / "level-00/result.json").write_text(json.dumps(result))
    assert main(["compare", str(run), str(other)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^train\.lr +0\.1 +0\.2 +\+0\.1$", out, re.MULTILINE)
    assert re.search(r"^level-00 top1 .* \+0\.125$", out, re.MULTILINE)
    assert main(["compare", str(run / "level-00"), str(run / "level-01")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^level +0 +1 +\+1$", out, re.MULTILINE)
    assert "density" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "-f", "elth_tabel1"], "unknown figure 'elth_tabel1'; did you mean elth_table1?"),
        (["nowhere"], "nowhere: no such folder"),
        ([], "RUN: is missing"),
        (["EMPTY"], "nothing has trained to the end yet"),
        (["RUN", "-o", "FILE"], "is a file; give a folder"),
        (["list", "nowhere"], "nowhere: no such folder"),
        (["list", "EMPTY/logs"], "no run and no sweep is below it"),
        (["compare", "RUN"], "is missing"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, run: Path, tmp_path: Path, capsys: Capture) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file"
    for name in ("jobs", "logs"):
        (empty / name).mkdir(parents=True)
    file.write_text("")
    places = {"RUN": str(run), "FILE": str(file), "EMPTY": str(empty), "EMPTY/logs": str(empty / "logs")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("elth_dist: error: ")
    assert said in line


def test_what_cannot_be_planned_again_is_said(run: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["train"]["lr"] = 0.3  # as if the code meant another thing by its options now
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    found = load_results(other)
    assert not found.records
    assert "left out, made by another version of elth_dist or a plugin" in found.notes[0]
    config["plugins"] = ["no_such_plugin"]
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([str(other), "-o", str(tmp_path / "report")]) == 2
    assert "there is no module no_such_plugin" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ papers

#: What a record of E-LTH's ImageNet recipe says.
IMAGENET = {
    "setting.data.name": "imagenet",
    "setting.train.epochs": "90",
    "setting.train.global_batch": "1024",
    "setting.train.lr": "0.4",
    "setting.train.milestones": "30ep,60ep,80ep",
    "setting.train.warmup": "5ep",
    "setting.train.weight_decay": "0.0001",
    "setting.train.optimizer.name": "sgd",
}


def made(results: Results, **changes: Any) -> Record:
    """A record of E-LTH's ImageNet recipe."""
    first = results.records[0]
    name = "-".join(str(value) for value in changes.values())
    usual = {
        "dataset": "imagenet",
        "classes": 1000,
        "options": IMAGENET,
        "level": 6,
        "density": 0.2621,
        "identity": name,
        "group": name,
        "job": name,
    }
    return dataclasses.replace(first, **{**usual, **changes})


def test_table1_compares_with_what_is_published(results: Results) -> None:
    ett = {"method": "ett", "what": "ETT <- resnet26", "arch": "resnet34", "source": "resnet26", "group": "moved"}
    snip = {"method": "snip", "what": "SNIP", "arch": "resnet34"}
    code = {"options": {**IMAGENET, "criterion.variant": "elth_code"}}
    records = (
        made(results, method="imp", what="IMP", arch="resnet34", top1=0.7400),
        made(results, **ett, seed=0, top1=0.7347),
        made(results, **ett, seed=1, top1=0.7367),
        made(results, method="dense", what="dense", arch="resnet26", level=None, top1=0.72, **code),
        made(results, **snip, top1=0.69),
    )
    [drawing] = figures_named(["elth_table1"])
    drawn = drawing.draw(Results("papers", records))
    assert drawn is not None
    [table] = drawn.tables
    assert table.headings == ("network", "", "dense", "IMP", "SNIP", "ETT <- resnet26")
    assert table.rows == (
        ("resnet26", "ours", "72.00 (n 1)", "-", "-", "-"),
        ("resnet26", "published", "72.56", "-", "-", "-"),
        ("resnet26", "difference", "-0.56", "-", "-", "-"),
        ("resnet34", "ours", "-", "74.00 (n 1)", "69.00 (n 1)", "73.57 ± 0.14 (n 2)"),
        ("resnet34", "published", "-", "74.20", "-", "73.37"),  # SNIP's: of another variant
        ("resnet34", "difference", "-", "-0.20", "-", "+0.20"),
    )
    variant = made(results, **snip, **code, top1=0.69)
    drawn = drawing.draw(Results("papers", (*records[:4], variant)))
    assert drawn is not None
    assert drawn.tables[0].rows[-1][4] == "-0.35"


def test_another_recipe_is_not_compared(results: Results) -> None:
    short = {**IMAGENET, "setting.train.epochs": "10"}
    ett = {"method": "ett", "what": "ETT <- resnet26", "arch": "resnet34", "source": "resnet26"}
    [drawing] = figures_named(["elth_table1"])
    drawn = drawing.draw(Results("papers", (made(results, **ett, options=short),)))
    assert drawn is not None
    assert [row[1] for row in drawn.tables[0].rows] == ["ours"]
    assert "train.epochs 10 (published: 90)" in drawn.tables[0].notes[-1]


def test_figures_without_their_records_are_not_drawn(results: Results) -> None:
    bare = Results("bare", results.records[:1])
    for figure in figures_named(paper_figures):
        assert figure.draw(bare) is None, figure.name
        assert figure.paper
        assert figure.shows.endswith(".")
    assert len(sections_of(bare, figures_named(["elth_table2"]), weights=False)) == 3


def test_table2_table3_and_stability(results: Results) -> None:
    ett = {"method": "ett", "what": "ETT <- resnet26", "arch": "resnet34", "source": "resnet26"}
    rigl = {**IMAGENET, "update.multiplier": "5"}
    records = (
        made(results, **ett, top1=0.7337),
        made(results, method="rigl", what="RigL-5x", arch="resnet34", options=rigl, top1=0.7400),
        made(results, method="dpf", what="DPF", arch="resnet34", top1=0.70),
        made(results, method="dense", what="dense", arch="resnet34", level=None, top1=0.75),
    )
    two, three = (figure.draw(Results("papers", records)) for figure in figures_named(["elth_table2", "elth_table3"]))
    assert two is not None
    rows = {row[1]: row for row in two.tables[0].rows}
    assert rows["RigL-5x"][3:5] == ("73.88", "+0.12")
    assert rows["ETT <- resnet26"][3:5] == ("73.37", "+0.00")
    assert three is not None
    drops = {row[2]: row[6] for row in three.tables[0].rows}
    assert drops == {"DPF": "5.00", "ETT <- resnet26": "1.63"}
    later = [
        dataclasses.replace(
            line,
            one=None if line.one is None else dataclasses.replace(line.one, start_step=4),
            other=None if line.other is None else dataclasses.replace(line.other, start_step=4),
        )
        for line in results.lines
    ]
    [figure] = figures_named(["stability_over_rewind"])
    drawn = figure.draw(dataclasses.replace(results, lines=(*results.lines, *later)))
    assert drawn is not None
    [axes, *_] = drawn.drawings[0].figure.axes
    assert {tuple(line.get_xdata()) for line in axes.lines} >= {(2.0, 4.0)}


def test_a_sweep_is_read_back_and_names_its_figures(tmp_path: Path, capsys: Capture) -> None:
    from tests.launch.test_sweep import sweep_file

    path = sweep_file(tmp_path, figures=["elth_figure6"], seeds=[0, 1])
    assert sweep([str(path), "--cluster", "debug", "--dir", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "out"), "-o", str(tmp_path / "report"), "--no-weights"]) == 0
    assert "elth_figure6: 1 table, 1 figure" in capsys.readouterr().out
    ours = sorted((tmp_path / "report/records.csv").read_text().splitlines())
    assert ours == sorted((tmp_path / "out/results.csv").read_text().splitlines())
    found = load_results(tmp_path / "out")
    assert found.title == "tiny"
    assert {record.seed for record in found.records} == {0, 1}
    path.write_text(path.read_text().replace("elth_figure6", "elth_figure66"))
    assert sweep([str(path), "--cluster", "debug", "--dir", str(tmp_path / "other")]) == 2
    assert "figures: unknown figure 'elth_figure66'; did you mean elth_figure6?" in capsys.readouterr().err
