"""What every benchmark has in common: how it is found, what is written beside its figures, and where."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from peftbench.bench import markdown, suite
from peftbench.record import write_atomically

GIB = 2**30


@dataclass(frozen=True)
class Options:
    """What the command line says to every benchmark."""

    repetitions: int
    """Rounds of a timing, seeds of a count."""
    quick: bool = False
    """A moment's work on a tiny network, to see that everything runs; its figures mean nothing."""
    say: Callable[[str], None] = lambda line: None
    """Is told what is being done."""
    data: Path = Path("../shared/data")
    """Folder with the real data sets, each in a folder of its own."""
    keep: Callable[[dict[str, Any]], None] = lambda results: None
    """Is given the results so far, once there are any: they are written if the benchmark is stopped."""

    def gather(self, results: dict[str, Any], cases: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """``results`` with all ``cases``, kept as they come."""
        results["cases"] = []
        for case in cases:
            results["cases"].append(case)
            self.keep(results)
        return results


class Benchmark(Protocol):
    """One file of `peftbench.bench.suite`."""

    ON_DEVICE: bool

    def run(self, options: Options) -> dict[str, Any]:
        """Measure; JSON types only."""

    def page(self, results: dict[str, Any]) -> str:
        """Markdown below the page's head, made of ``results`` and nothing else."""


def names() -> list[str]:
    """All benchmarks there are, without importing any."""
    return sorted(found.name for found in pkgutil.iter_modules(suite.__path__))


def find(name: str) -> Benchmark:
    """The benchmark of that name, which is one of `names`."""
    return cast(Benchmark, importlib.import_module(f"{suite.__name__}.{name}"))


def measure(name: str, options: Options, command: str, code: dict[str, Any]) -> dict[str, Any]:
    """Everything about one benchmark: its results, and what they were measured on, with and when.

    Args:
        code: the state of the checkout before the first benchmark wrote its files into it.

    Raises:
        KeyboardInterrupt: it is stopped before it has anything; later, its results so far are ``stopped`` ones.
    """
    from peftbench.context import prepare_process, resolve_device
    from peftbench.measuring import precision
    from peftbench.measuring.environment import describe
    from peftbench.sparsity.contextual import Contextual

    benchmark = find(name)
    # Contenders take turns in one process, and this is the one with the most shapes.
    prepare_process(Contextual.products)
    device = resolve_device("auto" if benchmark.ON_DEVICE else "cpu")
    environment = {**describe(device, precision.resolve("auto", device)), **code}
    started = datetime.now(UTC)
    results, stopped = _results(benchmark, options)
    return {
        "benchmark": name,
        "on_device": benchmark.ON_DEVICE,
        "quick": options.quick,
        "stopped": stopped,
        "command": command,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "environment": environment,
        "results": results,
    }


def _results(benchmark: Benchmark, options: Options) -> tuple[dict[str, Any], bool]:
    kept: list[dict[str, Any]] = []
    try:
        return benchmark.run(replace(options, keep=kept.append)), False
    except KeyboardInterrupt:
        if not kept:
            raise
        return kept[-1], True


def render(measured: dict[str, Any]) -> str:
    """The page of what `measure` returned (or of its JSON file, which is the same)."""
    warning = "\n**A quick run on a tiny network: these figures mean nothing.**\n" if measured["quick"] else ""
    if measured.get("stopped"):  # files from before there was such a thing do not say
        warning += "\n**It was stopped before its end: what is not here was not measured.**\n"
    body = find(measured["benchmark"]).page(measured["results"])
    return f"# Benchmark: {measured['benchmark']}\n{warning}\n{_head(measured)}\n\n{body.strip()}\n"


def write(measured: dict[str, Any], folder: Path) -> Path:
    """Write ``<name>.json``, and ``<name>.md`` made of that file; on a GPU both names end in ``-gpu``.

    Returns:
        The path of the page.
    """
    stem = measured["benchmark"] + ("-gpu" if _on_gpu(measured) else "")
    raw = folder / f"{stem}.json"
    write_atomically(raw, json.dumps(measured, indent=1, allow_nan=False) + "\n")
    page = folder / f"{stem}.md"
    write_atomically(page, render(json.loads(raw.read_text(encoding="utf-8"))))
    return page


def _on_gpu(measured: dict[str, Any]) -> bool:
    return bool(measured["environment"]["device"].startswith("cuda"))


def _head(measured: dict[str, Any]) -> str:
    """The machine, the versions and the command."""
    where = measured["environment"]
    commit = where["git_commit"] or "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    emulated = " (emulated)" if where["precision_emulated"] else ""
    items = {
        "Command": f"`{measured['command']}`",
        "When": f"{measured['started']}, {measured['seconds']:.0f} s",
        "Code": f"{commit}{' with uncommitted changes' if where['git_dirty'] else ''}",
        "Machine": f"{where['device_name']} ({where['device']}), {where['cores']} cores, {where['threads']} threads, "
        f"{where['ram_bytes'] / GIB:.0f} GiB, {where['os']}",
        "Versions": f"Python {where['python']}, {versions}" + (f", CUDA {where['cuda']}" if where["cuda"] else ""),
    }
    if told := where.get("allocator"):
        told = " ".join(f"{name}={value}" for name, value in told.items())
        items["C allocator"] = f"`{told}`, as runs have it"
    if measured["on_device"]:
        own = (
            "; in encoders ours compute norms and sums in it too"
            if (where["device"], where["precision"]) == ("cpu", "bf16")
            else ""
        )
        items["Precision"] = f"{where['precision']}{emulated}, the same for every contender{own}"
        elsewhere = f"not run (no GPU here; the same command on one writes {measured['benchmark']}-gpu.md)"
        items["GPU"] = "this table" if _on_gpu(measured) else elsewhere
    return markdown.bullets(items)
