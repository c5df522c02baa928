"""Two sides' answers to the same items, compared as the report compares settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.bench import markdown
from peftbench.record import PREDICTIONS


def bits(correct: np.ndarray) -> str:
    """A digit an item, "1" where the answer is right: short in a file, and still there item by item."""
    return "".join("1" if value else "0" for value in correct)


def correct_answers(folder: Path) -> str:
    """`bits` of the predictions that one of our runs has left in its folder, by item."""
    import pandas as pd

    rows = pd.read_parquet(folder / PREDICTIONS).sort_values("id")
    return bits((rows["prediction"] == rows["label"]).to_numpy())


def answers(runs: Sequence[dict[str, Any]]) -> np.ndarray:
    """1.0 where the answer is right: float64, shape (runs, items)."""
    return np.array([[float(digit) for digit in run["correct"]] for run in runs])


def difference(own: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> list[str]:
    """Mean difference in points, its 95 % interval (`peftbench.report.compare`), and whether that holds 0.

    Args:
        own: runs with ``correct``, one a seed.
        other: the same seeds in the same order.
    """
    from peftbench.report.compare import paired

    gains = answers(own) - answers(other)
    found = f"{100 * gains.mean():+.2f}"
    if len(gains) < 2:
        return [found, markdown.NOTHING, markdown.NOTHING]
    gain = paired(gains)
    return [found, f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}", "yes" if gain.low <= 0 <= gain.high else "no"]
