"""What the table at the end of a command shows of a sweep folder that holds more than its runs."""

from __future__ import annotations

import io

import pytest

from peftbench.report import show, sweep
from peftbench.report.part import part
from peftbench.report.view import views


@pytest.fixture
def earlier(folder):
    """What earlier commands have run: the baseline at two ranks, another method, another data set."""
    for seed in range(3):
        folder.classified("lora", seed, accuracy=0.80)
        folder.classified("lora", seed, rank=16)
        folder.classified("dora", seed)
    folder.modelled("lora")
    folder.run("ia3", status="failed", reason="earlier")
    return folder


def labels(loaded):
    return [[setting.label for setting in section.settings] for section in loaded.sections]


def test_a_method_that_is_added_stands_beside_its_baseline_only(earlier):
    added = [earlier.classified("hira", seed, accuracy=0.97).run_id for seed in range(3)]
    out = io.StringIO()
    show(earlier.path, file=out, only=added)
    assert labels(part(sweep.load(earlier.path), added, "lora")) == [["hira r=8", "lora r=8"]]
    text = out.getvalue()
    assert "better" in text
    assert not {"dora", "wikitext2", "ia3", "earlier"} & set(text.split())


def test_a_verdict_is_that_of_the_page(folder):
    """Methods that are added by one command each are tested as often as those of one command."""
    for seed in range(3):
        folder.classified("lora", seed, accuracy=0.80)
        for number in range(6):
            folder.classified(f"m{number}", seed, accuracy=0.80)
    added = [folder.classified("hira", seed, accuracy=0.84).run_id for seed in range(3)]
    loaded = sweep.load(folder.path)
    (page,) = views(loaded, "lora")
    (shown,) = views(part(loaded, added, "lora"), "lora", whole=loaded)
    of_page = page.frame.set_index("method").loc["hira"]
    of_command = shown.frame.set_index("method").loc["hira"]
    assert list(shown.frame["method"]) == ["hira", "lora"]
    assert (of_command["verdict"], of_command["p_holm"]) == (of_page["verdict"], of_page["p_holm"])
    assert of_command["p_holm"] > of_command["p"]
    assert any("Holm-corrected over the 8 settings of the page's table" in line for line in shown.key)


def test_a_seed_that_is_added_counts_with_the_others(earlier):
    added = earlier.classified("dora", 3).run_id
    left = part(sweep.load(earlier.path), [added], "lora")
    dora = next(setting for setting in left.sections[0].settings if setting.axes["method"] == "dora")
    assert [run.axes["seed"] for run in dora.runs] == [0, 1, 2, 3]


def test_without_its_baseline_a_run_stands_alone(earlier):
    added = earlier.classified("hira", rank=2).run_id
    assert labels(part(sweep.load(earlier.path), [added], "lora")) == [["hira r=2"]]


def test_failures_are_those_of_the_command_and_the_rest_is_counted(earlier, capsys):
    added = earlier.run("vera", status="failed", reason="this one").run_id
    (earlier.path / "report.html").touch()
    show(earlier.path, only=[added])
    told = capsys.readouterr().out
    assert "1 of 1 runs did not finish" in told
    assert "this one" in told
    assert "(4 other settings are there too)" in told
