"""A real TensorBoard shows a written run, one job of which was killed and resumed."""

import json
import re
import select
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elth_dist.reporting.reporter import Reporter
from elth_dist.sparsity.masks import Masks

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 240.0  # the machine may be busy


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    masks = Masks({"conv1.weight": torch.ones(16, 3, 3, 3, dtype=torch.bool)})
    weights = {"conv1.weight": torch.ones(16, 3, 3, 3)}

    def attempt(job: str, first: int, stop: int, keep_rows: int, lr: float) -> None:
        texts = {"config": f"lr: **{lr}**"}
        with Reporter(
            folder / "metrics.jsonl", lambda job: folder / job, enabled=True, interactive=False, texts=texts, run="run"
        ) as reporter:
            reporter.start_job(
                job, title="a test", start_step=first, total_steps=20, steps_per_epoch=5, keep_rows=keep_rows
            )
            for step in range(first + 1, stop + 1):
                reporter.scalars(step, step / 5, {"train/loss": lr / step, "val/top1": step / 100})
            if stop == 20:
                reporter.level_end(20, masks, weights, None, level=int(job[-2:]))
                reporter.hparams({"train": {"lr": lr}, "level": int(job[-2:])}, {"top1": 0.75})

    attempt("level-00", 0, 20, 0, 0.1)
    attempt("level-01", 0, 15, 0, -1.0)  # what came after the checkpoint at step 10 must not be seen
    time.sleep(1.01 - time.time() % 1)
    attempt("level-01", 10, 20, 10, 0.2)
    return folder


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast loader", "python loader"])
def server(request, run) -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--logdir", str(run), "--host", "127.0.0.1"]
    command += ["--port", "0", "--load_fast", request.param]
    with subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE) as process:
        try:
            yield address(process)
        finally:
            process.terminate()
            process.wait(timeout=SECONDS)


def address(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.1)[0]:
            said += process.stdout.read1()
            if match := re.search(rb"TensorBoard \S+ at (http://[\d.:]+/)", said):
                return match[1].decode()
        if process.poll() is not None:
            break
    pytest.fail(f"TensorBoard does not start:\n{said.decode(errors='replace')}")


def ask(url: str, body: Any = None, **query: str) -> Any:
    request = urllib.request.Request(url + ("?" + urllib.parse.urlencode(query) if query else ""))
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=SECONDS) as answer:
        data = answer.read()
        return json.loads(data) if "json" in answer.headers["Content-Type"] else data


def wait_for_runs(server: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        tags = ask(server + "data/plugin/scalars/tags")
        if all("result/top1" in tags.get(job, ()) for job in ("level-00", "level-01")):
            return
        time.sleep(0.1)
    pytest.fail(f"TensorBoard does not show the runs: {tags}")


def test_it_serves_what_was_reported(server):
    wait_for_runs(server)
    plugin = server + "data/plugin/"
    assert ask(server + "data/runs") == ["about", "level-00", "levels", "level-01"]

    tags = ask(plugin + "scalars/tags")
    assert tags["level-00"].keys() == {
        "loss/train",
        "accuracy/val_top1",
        "density/total",
        "speed/epoch",
        "result/top1",
    }
    assert [step for _, step, _ in ask(plugin + "scalars/scalars", run="levels", tag="layers_density/conv1")] == [0, 1]
    for job, before, after in (("level-00", 0.1, 0.1), ("level-01", -1.0, 0.2)):
        points = ask(plugin + "scalars/scalars", run=job, tag="loss/train")
        expected = [(step, pytest.approx((before if step <= 10 else after) / step)) for step in range(1, 21)]
        assert [(step, value) for _, step, value in points] == expected

    (image,) = ask(plugin + "images/images", run="level-01", tag="mask/conv1.weight", sample="0")
    assert ask(plugin + "images/individualImage?" + image["query"]).startswith(b"\x89PNG")
    (histogram,) = ask(plugin + "histograms/histograms", run="level-01", tag="weights/conv1.weight")
    assert histogram[1] == 20
    texts = ask(plugin + "text/text", run="about", tag="config/text_summary")
    assert "<strong>0.2</strong>" in texts[-1]["text"], "once a run: the last start's"
    layout = ask(plugin + "custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == ["overview", "over levels"]
    charts = [chart["title"] for chart in layout["category"][0]["chart"]]
    assert charts[:3] == ["accuracy", "density", "images per second"]

    experiment = ask(plugin + "hparams/experiment", {})
    assert sorted(info["name"] for info in experiment["hparamInfos"]) == ["density", "level", "train.lr"]
    query = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [{"metric": {"tag": "result/top1"}}]}
    sessions = ask(plugin + "hparams/session_groups", query | {"startIndex": 0, "sliceSize": 9})["sessionGroups"]
    assert {session["name"]: session["hparams"]["train.lr"] for session in sessions} == {
        "level-00 (run)": 0.1,
        "level-01 (run)": 0.2,
    }
    assert all(session["metricValues"][0]["value"] == 0.75 for session in sessions)


def test_a_browser_draws_it(server, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)}); the HTTP test stands for it")
    wait_for_runs(server)
    # --no-sandbox: root in a container has none; the page comes from this host alone
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--no-proxy-server", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", "--disable-quic", "--dump-dom"]
    expected = ("level-00", "level-01", "loss/train")
    patience = 5_000  # milliseconds of the page's own clock, which a busy host outruns
    deadline = time.monotonic() + 4 * SECONDS
    while True:
        done = subprocess.run(
            [*command, f"--virtual-time-budget={patience}", server + "?tagFilter=loss%2F#timeseries"],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        page = done.stdout
        if all(text in page for text in expected) or time.monotonic() > deadline:
            break
        patience = min(2 * patience, 160_000)
    for text in expected:
        assert text in page
