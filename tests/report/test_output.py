"""What people read: the terminal, Markdown, the page, and the command that makes them."""

from __future__ import annotations

import html
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from support import ROOT

from peftbench.report import __main__ as command
from peftbench.report import facts, markdown, show, sweep, terminal, write
from peftbench.report import page as page_module
from peftbench.report.charts import front
from peftbench.report.drawing import Drawing
from peftbench.report.view import views

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def full(folder):
    """Two tables, failures, histories, and text that would like to be markup."""
    history = [{"step": step, "validation/accuracy": 0.5 + step / 100} for step in (10, 20, 30)]
    environment = {
        "device": "cpu",
        "precision": "fp32",
        "git_commit": "abc",
        "git_dirty": True,
        "overrides": ["method=hira", "x='a b'"],
    }
    for seed in range(3):
        folder.classified("lora", seed, accuracy=0.80, history=history)
        folder.classified("lora", seed, accuracy=0.82, rank=16, history=history)
        larger = {"metrics": {"size/adapter_bytes": 1_184_272}}
        folder.classified("hira", seed, accuracy=0.97, history=history, environment=environment, **larger)
        folder.modelled("lora", seed, base={"name": EVIL, "random_weights": True})
    folder.classified("dora", rank=16)
    folder.run("qlora", status="skipped", reason=f"needs CUDA {EVIL}", traceback=EVIL)
    folder.run("ia3", rank=None, status="failed", reason="ValueError: [bold]no[/bold]\nsecond line")
    return folder


class Page(HTMLParser):
    """Tags, links, identities and the balance of open elements."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.links, self.ids, self.open = text, [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "input", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def as_markdown(folder):
    loaded = sweep.load(folder.path)
    return markdown.render(loaded, views(loaded, "lora"))


def page(folder, **options):
    return Page(write(folder.path, **options).read_text())


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ({"lora": 0.8, "hira": 0.8}, "Against lora, the one setting compared is not told apart (tie)."),
        (
            {"lora": 0.8, "hira": 0.8, "qlora": 0.8},
            "Against lora, none of the 2 settings compared is told apart (tie).",
        ),
        ({"lora": 0.8, "hira": 0.97, "qlora": 0.5}, "Of 2 compared with lora: 1 better, 1 worse, 0 not told apart."),
        ({"hira": 0.9, "qlora": 0.8}, None),
    ],
)
def test_one_sentence_says_what_a_table_shows(folder, accuracies, said):
    for method, accuracy in accuracies.items():
        for seed in range(3):
            folder.classified(method, seed, accuracy=accuracy)
    (view,) = views(sweep.load(folder.path), "lora")
    best = max(view.settings, key=lambda one: sum(run.metrics["quality/accuracy"] for run in one.runs))
    mean = sum(run.metrics["quality/accuracy"] for run in best.runs) / 3
    first, _, rest = view.finding.partition("%.")
    assert first == f"Highest mean accuracy: {best.label}, {100 * mean:.2f}\u00a0"
    assert rest.strip() == (said or "")


def test_page_stands_alone_and_is_well_formed(full):
    found = page(full)
    assert found.open == []
    assert not [link for link in found.links if re.match(r"\w+:|//", link)]
    assert not re.search(r"""(url\(|@import|(src|href)=["']?)\s*["']?(https?:)?//""", found.text)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert {"link", "img", "iframe"}.isdisjoint(found.tags)


def test_everything_from_a_record_is_escaped(full):
    found = page(full)
    assert EVIL not in found.text
    assert found.tags.count("script") == 1
    assert "&lt;script&gt;" in found.text


def test_page_says_what_there_is(full):
    text = page(full).text
    for words in (
        "random weights",
        "needs CUDA",
        "peftbench method=hira",
        "config.yaml",
        "dev, 400 items",
        "better +",
        "1 seed)",
    ):
        assert words in text
    assert text.count("<svg") == 5
    assert "<title>hira r=8: accuracy" in text
    assert "currentColor" in text
    assert "#010203" not in text
    start = text.index("peak memory, GB")
    ticks = [float(tick) for tick in re.findall(r">([\d.]+)</text>", text[start - 6000 : start])]
    assert ticks
    assert all(0.9 < tick < 1.5 for tick in ticks), "1.2 and 1.3 GB, not 0.0002 and an offset"


def test_shell_words_of_the_command_survive(full):
    assert "&#39;x=&#39;&#34;&#39;&#34;&#39;a b&#39;&#34;&#39;&#34;&#39;&#39;" in page(full).text


def test_terminal_fits_100_columns(full):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None, highlight=False)
    for view in views(sweep.load(full.path), "lora"):
        terminal._section(console, view)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "in the report only" in text
    assert "…" not in text


def test_terminal_in_a_file_is_plain_and_whole(full):
    write(full.path)
    file = io.StringIO()
    show(full.path, file=file)
    text = file.getvalue()
    assert "\x1b" not in text
    assert "…" not in text
    for words in (
        "random weights",
        "± is half the 95 %",
        "skipped",
        "[bold]no[/bold]",
        "(1 seed)",
        "precision fp32",
        "report.html",
    ):
        assert words in text
    assert "second line" not in text


def test_markdown_is_one_table_a_section(full):
    text = as_markdown(full)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = text.count("### ")
    assert tables == 2
    assert sum(set(row) <= set("|:-") for row in rows) == tables
    assert text.count("± ") >= 4
    assert markdown._safe("a|b <i> *c*\nd") == r"a\|b &lt;i&gt; \*c\* d"


def test_only_skips(folder):
    folder.run(status="skipped", reason="no CUDA here")
    text = page(folder).text
    assert "No run of this sweep finished" in text
    assert "no CUDA here" in text
    file = io.StringIO()
    show(folder.path, file=file)
    assert "1 of 1 runs did not finish" in file.getvalue()
    assert "finished, so there are no figures" in as_markdown(folder)


def test_many_failures_are_cut_short(folder):
    for seed in range(25):
        folder.run(seed=seed, status="failed", reason=f"x{seed}")
    file = io.StringIO()
    show(folder.path, file=file)
    assert "and 5 more" in file.getvalue()


def test_failures_for_one_reason_are_one_line(folder):
    for seed in range(7):
        folder.run(seed=seed, status="failed", reason="no disk", traceback=f"frame {seed}")
    file = io.StringIO()
    show(folder.path, file=file)
    assert "and 6 more: no disk" in file.getvalue()
    text = page(folder).text
    assert (text.count("no disk"), text.count("<pre>"), "and 2 more" in text) == (1, 1, True)


def test_two_seeds_show_their_ends_and_three_an_interval(folder):
    for rank, seeds in ((4, 2), (8, 3)):
        for seed in range(seeds):
            folder.classified(seed=seed, rank=rank)
    quality = {}
    for rank, cells in rows(folder):
        quality[rank] = cells["quality"]
    runs = sweep.load(folder.path).records
    low, high = sorted(100 * run.metrics["quality/accuracy"] for run in runs if run.axes["rank"] == 4)
    assert quality["4"].text == f"{(low + high) / 2:.2f} ({low:.2f}–{high:.2f})"
    assert "95 % interval" in quality["4"].hint
    assert "±" in quality["8"].text


def rows(folder):
    (view,) = views(sweep.load(folder.path), "lora")
    for cells in zip(*(column.cells for column in view.columns), strict=True):
        named = dict(zip([column.key for column in view.columns], cells, strict=True))
        yield named["rank"].text if "rank" in named else "", named


def test_a_figure_that_did_not_repeat_is_marked(folder):
    steady = {"speed/train_tokens_per_s": 1000.0, "memory/train_peak_bytes": 10**9}
    for seed in range(2):
        folder.classified(seed=seed, metrics=steady | {"speed/infer_latency_ms_p50": 5.0}, rank=4)
        folder.classified(seed=seed, metrics=steady | {"time/train_s": 10.0 + 2 * seed}, rank=8)
    spread = {"speed/infer_latency_ms_p50": 0.11, "speed/infer_samples_per_s": 0.05}
    folder.classified(seed=2, metrics=steady | {"speed/infer_latency_ms_p50": 5.0}, rank=4, spread=spread)
    marked = {rank: [key for key, cell in cells.items() if "≈" in cell.text] for rank, cells in rows(folder)}
    assert marked == {"4": ["speed/infer_latency_ms_p50"], "8": ["time/train_s"]}
    (view,) = views(sweep.load(folder.path), "lora")
    assert any(line.startswith("≈") for line in view.key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"environment": {"device": "cpu", "precision": "bf16"}}, "Not alike in precision: bf16 (hira); fp32 (lora)"),
        ({"base": {"targets": ["q"]}}, "Not alike in base.targets: ['q'] (hira); ['q', 'v'] (lora)"),
    ],
)
def test_what_methods_do_not_share_is_said(folder, change, words):
    folder.classified("lora", base={"targets": ["q", "v"]})
    folder.classified("hira", **{"base": {"targets": ["q", "v"]}, **change})
    assert words in html.unescape(page(folder).text)


def test_another_allocator_is_said(folder):
    folder.classified("lora", environment={"allocator": {}})
    folder.classified("hira", environment={"allocator": {"MALLOC_MMAP_THRESHOLD_": "65536"}})
    assert "Not alike in allocator: MALLOC_MMAP_THRESHOLD_=65536 (hira); default (lora)" in page(folder).text


@pytest.mark.parametrize("option", ["batch_size", "gradient_checkpointing"])
def test_another_recipe_is_said(folder, option):
    for method, value in (("lora", 8), ("hira", 16)):
        record = folder.classified(method)
        record.config["trainer"][option] = value
        record.write(folder.path / record.run_id)
    assert f"Not alike in trainer.{option}: 16 (hira); 8 (lora)" in page(folder).text


def test_seeds_of_a_row_are_repeated_by_one_command(folder):
    for seed in range(3):
        overrides = ["-cn", "demo", "method=lora", f"seed={seed}", "x=a b"]
        folder.classified(seed=seed, environment={"device": "cpu", "overrides": overrides})
    assert "<code>peftbench -m -cn demo method=lora &#39;x=a b&#39; seed=0,1,2</code>" in page(folder).text


@pytest.mark.parametrize("name", ["demo", "search"])
def test_the_command_of_a_run_of_a_named_sweep_is_that_run(folder, name, tmp_path):
    overrides = ["-cn", name, "method=hira", "rank.value=6", "seed=3", "trainer.lr=0.002"]
    record = folder.run(environment={"overrides": overrides})
    command = [sys.executable, "-m", *shlex.split(facts.command(record)), "engine.dry_run=true"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("hira-movie_reviews-minilm-r6-s3-") == 1
    assert "method=lora" not in done.stdout


def test_a_page_that_would_be_too_large_shows_the_best_on_validation(folder, monkeypatch):
    for index in range(30):
        value = {"metric": "validation/accuracy", "value": index / 30}
        folder.classified(lr=1e-4 * (index + 1), selection=value, items=40)
    loaded = sweep.load(folder.path)
    for name, rows in (("LIMIT", 20), ("SHOWN", 10)):
        monkeypatch.setattr(f"peftbench.report.view.{name}", rows)
    (view,) = views(loaded, "lora")
    rates = sorted(setting.options["trainer.lr"] for setting in view.settings)
    assert rates == pytest.approx([1e-4 * (index + 1) for index in range(20, 30)])
    assert "The 10 of 30 settings" in view.facts[0]
    monkeypatch.setattr("peftbench.report.page.RUNS", 20)
    text = page_module.render(loaded, [view], "lora")
    assert "10 of 30 runs, those of the rows shown" in text
    assert text.count('<tr id="run-') == 10


def test_pareto_front_against_brute_force():
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 8, (40, 2))]
    best = {i for i, (x, y) in enumerate(points) if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)}
    assert set(front(points, higher_x=False, higher_y=True)) == best
    mirrored = [(-x, -y) for x, y in points]
    assert set(front(mirrored, higher_x=True, higher_y=False)) == best


def test_files_are_as_readable_as_any(full):
    write(full.path)
    (full.path / "other").write_text("")
    expected = (full.path / "other").stat().st_mode
    names = ("report.html", "results.csv", "results.parquet")
    assert {(full.path / name).stat().st_mode for name in names} == {expected}


def test_command_takes_the_newest_folder(full, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--baseline", "hira", "--markdown", "table.md"]) == 0
    assert "vs hira" in (tmp_path / "table.md").read_text()
    assert "outputs/s/report.html" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["empty"]])
def test_command_without_records_says_so(arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("peftbench.report: ")


def test_a_folder_that_is_wrong_does_not_keep_the_others_from_being_reported(folder, full, capsys, tmp_path):
    assert command.main(["nowhere", str(full.path)]) == 2
    out, error = capsys.readouterr()
    assert "Highest mean accuracy" in out
    assert error == "peftbench.report: there is no folder nowhere: give one sweep folder, such as outputs/NAME\n"


def test_several_sweeps_are_named_in_the_terminal_and_in_markdown(full, capsys, tmp_path):
    copy = shutil.copytree(full.path, tmp_path / "other_sweep")
    target = tmp_path / "table.md"
    assert command.main([str(full.path), str(copy), "--markdown", str(target)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("==")] == [
        "== s",
        "== other_sweep",
    ]
    text = target.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## s", r"## other\_sweep"]
    assert text.count("Highest mean accuracy: hira") == 2
    assert text.count("- failed ia3-") == 2


def test_what_cannot_be_done_is_said_in_a_line(full, capsys, tmp_path):
    assert command.main([str(full.path), "--baseline", "lorra"]) == 2
    said = "peftbench.report: --baseline lorra: no run has this method; there are dora, hira, ia3, lora, qlora\n"
    assert capsys.readouterr().err == said
    assert command.main([str(full.path), "--markdown", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bars_have_the_colour_of_their_points_also_where_there_are_two():
    drawing = Drawing("title", ["hira", "lora"])
    for series, x in (("hira", 1.0), ("lora", 2.0)):
        drawing.point(series, x, 0.5, series, (0.4, 0.6))
    svg = drawing.finish("two").svg
    bars = [line for line in svg.splitlines() if "stroke-opacity: 0.5; stroke-width: 1.2" in line]
    assert [re.findall(r"stroke: (\S+);", line) for line in bars] == [["var(--s0)"], ["var(--s1)"]]


def test_numbers_that_six_digits_do_not_tell_apart_are_shown_whole(folder):
    for seed in (1234567, 1234568):
        for method in ("lora", "hira"):
            run = folder.classified(method, 0)
            config = {**run.config, "dataset": {"name": "sst2", "split_seed": seed}}
            folder.classified(method, 0, config=config, run_id=f"{method}{seed}")
            shutil.rmtree(folder.path / run.run_id)
    (view,) = views(sweep.load(folder.path), "lora")
    (column,) = [column for column in view.columns if column.key == "dataset.split_seed"]
    assert sorted(cell.text for cell in column.cells) == ["1234567", "1234567", "1234568", "1234568"]


def test_what_no_run_can_reach_is_not_drawn():
    from peftbench.report.charts import _bar
    from peftbench.report.figures import QUALITY
    from peftbench.report.table import summarize

    accuracy, perplexity, *_ = QUALITY
    assert _bar(accuracy, summarize([1.0, 0.97, 1.0])) == (pytest.approx(94.7, abs=0.1), 100.0)
    low, high = _bar(perplexity, summarize([20.0, 30.0, 9000.0]))
    assert low == 1.0
    assert high > 9000


def test_importing_the_package_is_light():
    code = "import peftbench.report, sys; sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_real_run_has_its_learning_curve_and_commands(tiny_run):
    from test_run import carried_out

    folder = None
    for method in ("lora", "hira"):
        record, path = carried_out(tiny_run(f"method={method}"))
        record.status = "ok"
        record.write(path)
        folder = path.parent
    text = write(folder).read_text()
    assert "accuracy on validation during training" in text
    assert text.count("on validation at the end</title>") == 2
    assert "accuracy against peak memory" in text
    assert record.run_id in text
