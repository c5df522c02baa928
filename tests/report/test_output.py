"""What people read: the terminal, Markdown, the page, and the command that makes them."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from peftbench.report import __main__ as command
from peftbench.report import markdown, show, sweep, terminal, write

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def full(folder):
    """Two tables, failures, histories, and text that would like to be markup."""
    history = [{"step": step, "quality/accuracy": 0.5 + step / 100} for step in (10, 20, 30)]
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


def page(folder, **options):
    return Page(write(folder.path, **options).read_text())


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
    assert (
        re.findall(r">([\d.,e+]+)</text>", text[text.index("peak memory, GB") - 6000 : text.index("peak memory, GB")])[
            -1
        ]
        == "1.2"
    )


def test_shell_words_of_the_command_survive(full):
    assert "&#39;x=&#39;&#34;&#39;&#34;&#39;a b&#39;&#34;&#39;&#34;&#39;&#39;" in page(full).text


def test_terminal_fits_100_columns(full):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None, highlight=False)
    for view in terminal.views(sweep.load(full.path), "lora"):
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
    text = markdown.render(sweep.load(full.path), "lora")
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
    assert "finished, so there are no figures" in markdown.render(sweep.load(folder.path), "lora")


def test_many_failures_are_cut_short(folder):
    for seed in range(25):
        folder.run(seed=seed, status="failed", reason="x")
    file = io.StringIO()
    show(folder.path, file=file)
    assert "and 5 more" in file.getvalue()


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


def test_importing_the_package_is_light():
    import subprocess
    import sys

    code = "import peftbench.report, sys; sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
