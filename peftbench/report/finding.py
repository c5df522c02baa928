"""What a table shows, in a sentence or two."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from peftbench.report.compare import ALPHA
from peftbench.report.figures import missing, scale, score
from peftbench.report.sweep import Section


def finding(section: Section, frame: pd.DataFrame, baseline: str) -> str:
    """The setting with the best mean, and how many of those compared differ from the baseline."""
    metric, top = section.key.metric, frame.iloc[0]
    if missing(top["mean"]):
        return ""
    unit = scale(metric.kind, [])[1]
    value = f"{score(metric, top['mean'])}\u00a0{unit}".rstrip()
    extreme = "Highest" if metric.higher_is_better else "Lowest"
    most = max(frame["seeds"])
    mean = f"mean {metric.label}" if most > 1 else metric.label
    few = f" ({top['seeds']} of {most} seeds)" if top["seeds"] < most else ""
    return f"{extreme} {mean}: {_best(section, frame)}, {value}{few}.{_compared(frame, baseline)}"


def _best(section: Section, frame: pd.DataFrame) -> str:
    """The settings with the best mean, of which there may be several."""
    equal = list(frame.loc[frame["mean"] == frame["mean"].iloc[0], "setting"])
    return listed([section.name(setting) for setting in equal])


def _compared(frame: pd.DataFrame, baseline: str) -> str:
    found = Counter(frame["verdict"])
    better, worse, ties = (found[name] for name in ("better", "worse", "tie"))
    compared = better + worse + ties
    if not compared:
        return ""
    if better + worse:
        said = f"Of {compared:,} compared with {baseline}: {better:,} better, {worse:,} worse, {ties:,} not told apart."
    elif compared == 1:
        said = f"Against {baseline}, the one setting compared is not told apart (tie)."
    else:
        said = f"Against {baseline}, none of the {compared:,} settings compared is told apart (tie)."
    return f" {said}{_undecided(frame, compared)}"


def _undecided(frame: pd.DataFrame, compared: int) -> str:
    """Ties that would be none if they were the only comparison: seeds are missing there, not differences."""
    ties = frame[frame["verdict"] == "tie"]
    close = sum(p < ALPHA for p in ties["p"])
    if not close:
        return ""
    seeds = min(ties.loc[ties["p"] < ALPHA, "common_seeds"])
    return (
        f" {close:,} of these ties would be a difference if nothing else were compared: {seeds} seeds are few for "
        f"{compared:,} comparisons, and more of them would decide."
    )


def listed(labels: list[str]) -> str:
    """Names in a row, the first few where they are many."""
    names = list(dict.fromkeys(labels))
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
