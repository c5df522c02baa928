"""What tests share: where things are, the options there are, and generated text."""

from __future__ import annotations

import random
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
SWEEPS = ROOT / "sweeps"
SHARED = ROOT.parent / "shared" / "data"

GOOD = ("good", "great", "fine", "superb", "lovely")
BAD = ("bad", "awful", "dull", "poor", "weak")


def options(group: str) -> list[str]:
    """Names of all options of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def pruning() -> list[str]:
    """Names of the sparsities that put zeros into the adapter."""
    return [name for name in options("sparsity") if name not in ("none", "contextual")]


def write_sentences(path: Path, count: int = 160, seed: int = 0) -> Path:
    """A CSV of ``count`` distinct sentences with a label that one word of each gives away."""
    rng = random.Random(seed)
    lines = ["text,label"]
    for index in range(count):
        label = index % 2
        word = rng.choice(GOOD if label else BAD)
        fill = " ".join(rng.choice(("film", "plot", "cast", "scene", "score")) for _ in range(rng.randint(1, 6)))
        lines.append(f"{fill} {word} {index},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_corpus(folder: Path) -> Path:
    """A corpus in three splits, as WikiText-2's: ``train.parquet`` and so on."""
    import pandas as pd

    folder.mkdir()
    for name, count in (("train", 80), ("validation", 20), ("test", 20)):
        rows = [{"text": f"line {i} of a {name} text that goes on for a while"} for i in range(count)]
        pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    return folder


def noop_launcher():
    """Real processes from a fork server, in which a run is ``tests/sweep/noop.py``'s."""
    from peftbench.sweep.process import ForkServer

    return ForkServer(execute="noop:execute", preload="noop")
