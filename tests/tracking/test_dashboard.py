"""The dashboard's specification, and that putting it into W&B twice changes one workspace and one report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces", reason="pip install 'peftbench[dashboard]'")

from support import ROOT

from peftbench.tracking import dashboard, panels
from tracking.backend import ENTITY, Backend, TrackedRun
from tracking.child import environment

ACCESSOR = re.compile(r'"(config[.:][\w.]+|summary(?:_metrics)?[.:][\w./]+)"')


def call(url: str, home: Path, *options: str, **changes: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "peftbench.tracking.dashboard", "--sweep", "demo", *options]
    known = {name: value for name, value in environment(url, home, **changes).items() if value}
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Printed without a key and without a server."""
    done = call("http://127.0.0.1:9", tmp_path_factory.mktemp("home"), "--print", WANDB_API_KEY="")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_runs_are_those_of_the_sweep_grouped_by_method(printed: dict):
    (runs,) = printed["workspace"]["spec"]["section"]["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "method.value.name"}]
    assert re.search(r'"name": "group".*"value": "demo"', json.dumps(runs["filters"]))
    assert '"value": "demo"' in json.dumps(printed["report"])


def test_every_panel_that_was_asked_for_is_there(printed: dict):
    sections = printed["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    kinds = [panel["viewType"] for section in sections for panel in section["panels"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "Bar Chart": 4,
        "Scatter Plot": 4,
        "Parallel Coordinates Plot": 1,
        "Run History Line Plot": 4,
    }
    in_report = re.findall(r'"viewType": "([^"]+)"', json.dumps(printed["report"]))
    assert sorted(in_report) == sorted(kinds)


def test_what_the_panels_name_is_what_runs_log(printed: dict, compose):
    """Against a composed configuration and the glossary: a misspelt name would be an empty panel."""
    config = compose("method=sparse_lora", "sparsity=magnitude").dump()
    glossary = (ROOT / "docs" / "metrics.md").read_text()
    named = set(ACCESSOR.findall(json.dumps(printed)))
    assert len(named) > 8
    for accessor in named:
        kind, _, path = accessor.replace(":", ".", 1).partition(".")
        if kind == "config":
            first, *rest = path.split(".")
            assert rest.pop(0) == "value"
            held = config[first]
            for part in rest:
                held = held[part]
        else:
            assert f"`{path}`" in glossary, path


def test_the_figure_that_is_compared_can_be_chosen():
    place = panels.Place("", "p", "s", "quality/perplexity")
    assert dashboard.specification(place)["report"]["title"] == "peftbench: s"
    front = panels.fronts(place)[0]
    assert (front.running_ymin, front.running_ymax) == (True, False)


def test_a_second_time_updates_what_is_there(tmp_path: Path):
    with Backend() as backend:
        backend.runs["r"] = TrackedRun("r", "mine")
        first = call(backend.url, tmp_path, "--project", "mine")
        assert (first.returncode, first.stderr, backend.unknown) == (0, "", [])
        other = dict(backend.views)
        second = call(backend.url, tmp_path, "--project", "mine")
        assert second.stdout == first.stdout
        assert set(backend.views) == set(other)
        assert call(backend.url, tmp_path, "--project", "mine", "--sweep", "another").returncode == 0
    kinds = sorted((view["type"], view["displayName"]) for view in backend.views.values())
    assert kinds == [
        ("project-view", "peftbench: another"),
        ("project-view", "peftbench: demo"),
        ("runs", "peftbench: another"),
        ("runs", "peftbench: demo"),
    ]
    workspace, report = first.stdout.splitlines()
    assert workspace.startswith(f"workspace {backend.url}/{ENTITY}/mine?nw=")
    assert report.startswith(f"report {backend.url}/{ENTITY}/mine/reports/")


def test_team_and_project_may_be_those_of_wandbs_variables(tmp_path: Path):
    with Backend() as backend:
        backend.runs["r"] = TrackedRun("r", "mine", "team")
        done = call(backend.url, tmp_path, WANDB_ENTITY="team", WANDB_PROJECT="mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"workspace {backend.url}/team/mine?nw=")


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"WANDB_API_KEY": ""}, 2, "no W&B key is configured: run `wandb login` or set WANDB_API_KEY"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, 1, "W&B at http://127.0.0.1:9 cannot be reached"),
        ({}, 1, f"there is no W&B project {ENTITY}/peftbench: track a run with tracker=wandb, or `make sync`"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(changes: dict, code: int, sentence: str, tmp_path: Path):
    with Backend() as backend:
        done = call(backend.url, tmp_path, **changes)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", sentence + "\n")


def test_without_the_package_it_says_how_to_get_it(monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    assert dashboard.main(["--sweep", "demo"]) == 2
    assert capsys.readouterr().err == "the dashboard needs wandb-workspaces: pip install 'peftbench[dashboard]'\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sweep", ""], "--sweep '' is no name of a sweep"),
        (["--sweep", "outputs/demo"], "--sweep 'outputs/demo' is no name of a sweep"),
        (
            ["--sweep", "demo", "--quality", "quality/nope"],
            "--quality 'quality/nope' is no figure of quality: write one",
        ),
        (["--sweep", "demo", "--quality", "accuracy"], "write one of quality/accuracy, quality/f1, "),
    ],
)
def test_names_that_nothing_has_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert dashboard.main([*options, "--print"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n")) == ("", 1)
