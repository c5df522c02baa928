"""Who is compared with whom, and on what: the baseline of each setting and the items both have answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet

from peftbench.record import PREDICTIONS, Record
from peftbench.report.compare import Comparison, Gain, corrected, paired
from peftbench.report.figures import Figure
from peftbench.report.sweep import Section, Setting, must_agree, varying

TOLERANCE = 1e-3
"""How far (relative) the figure recomputed from the predictions may lie from the record's."""


class Untestable(Exception):
    """There is no test; the message says why."""


@dataclass(frozen=True)
class Answers:
    """What one run answered, ordered by item: arrays of shape (items,)."""

    ids: np.ndarray
    reference: np.ndarray
    """Labels or token counts: must agree between runs, or the items are not the same."""
    score: np.ndarray
    """Higher is better: 1 for correct, or the log likelihood in nats."""
    weight: np.ndarray
    """1, or the tokens of a window: the figure is a function of sum(score) / sum(weight)."""


def compare(folder: Path, section: Section, method: str, settings: Sequence[Setting] | None = None) -> list[Comparison]:
    """Compare settings of a section with their baselines, Holm-corrected over those compared.

    Args:
        settings: the ones to compare; None is all of the section.
    """
    cache: dict[str, Answers] = {}
    chosen = section.settings if settings is None else settings
    return corrected([_compare(folder, section, setting, method, cache) for setting in chosen])


def _compare(folder: Path, section: Section, setting: Setting, method: str, cache: dict[str, Answers]) -> Comparison:
    try:
        baseline = choose(section, setting, method)
        if baseline is setting:
            return Comparison("baseline")
        if _twins(setting, baseline):
            raise Untestable("another learning rate of the baseline, which is the one that validation chose")
        gains, scale = _gains(folder, section.key.metric, setting, baseline, cache)
    except Untestable as reason:
        return Comparison("untested", note=str(reason))
    gain = paired(gains * scale)
    change, low, high = _in_figure(section.key.metric, gain)
    seeds, items = gains.shape
    partly = max(len(setting.runs), len(baseline.runs)) > seeds
    about = (section.name(baseline), seeds, items, change, low, high, gain.p)
    return Comparison("untested", *about, partly=partly, gain=gain)


def _twins(setting: Setting, other: Setting) -> bool:
    """Whether two settings differ in their learning rate only: to choose one is validation's business."""
    return setting.axes == other.axes and varying([setting, other]) <= {"trainer.lr"}


def choose(section: Section, setting: Setting, method: str) -> Setting:
    """The setting of ``method`` that ``setting`` is to be compared with.

    Same rank (where both have one), same recipe but for the learning rate, not sparse if there is a choice; of several,
    the best on the validation split, never on the evaluation split.

    Raises:
        Untestable: there is none, or no fair way to choose.
    """
    candidates = [other for other in section.settings if other.axes["method"] == method]
    if not candidates:
        raise Untestable(f"no {method} run in this table")
    ranks = {other.axes["rank"] for other in candidates}
    rank = setting.axes["rank"]
    if rank is not None and ranks != {None}:
        candidates = [other for other in candidates if other.axes["rank"] == rank]
        if not candidates:
            raise Untestable(f"no {method} run at rank {rank}")
    candidates = _fair(setting, candidates, method)
    dense = [other for other in candidates if other.axes["sparsity"] in (None, "none")]
    return _best(section.key.metric, setting, dense or candidates, method)


def _fair(setting: Setting, candidates: list[Setting], method: str) -> list[Setting]:
    fair = [other for other in candidates if other.recipe == setting.recipe]
    if not fair:
        differing = [sorted(filter(must_agree, varying([setting, other]))) for other in candidates]
        raise Untestable(f"{method} ran with another {min(differing, key=len)[0]}")
    return fair


def _best(metric: Figure, setting: Setting, candidates: list[Setting], method: str) -> Setting:
    if len(candidates) == 1:
        return candidates[0]
    scores = [other.validation for other in candidates]
    if all(score is not None for score in scores):
        sign = 1 if metric.higher_is_better else -1
        return max(zip(candidates, scores, strict=True), key=lambda pair: sign * (pair[1] or 0.0))[0]
    if setting in candidates:
        return setting
    alike = [other for other in candidates if other.options.get("trainer.lr") == setting.options.get("trainer.lr")]
    if len(alike) == 1:
        return alike[0]
    raise Untestable(f"several {method} settings fit and no validation figures say which is the best")


def _gains(
    folder: Path, metric: Figure, setting: Setting, baseline: Setting, cache: dict[str, Answers]
) -> tuple[np.ndarray, float]:
    """Gains of ``setting`` over ``baseline``, shape (common seeds, items), and the factor to gain per unit."""
    ours = {run.axes.get("seed"): run for run in setting.runs}
    theirs = {run.axes.get("seed"): run for run in baseline.runs}
    common = [seed for seed in ours if seed in theirs]
    if len(common) < 2:
        raise Untestable(
            f"{'one seed' if common else 'no seed'} in common with the baseline: two are needed, five are good"
        )
    pairs = [(_answers(folder, metric, ours[s], cache), _answers(folder, metric, theirs[s], cache)) for s in common]
    first = pairs[0][0]
    if any(not np.array_equal(first.ids, one.ids) for pair in pairs for one in pair):
        raise Untestable("the runs did not answer the same items")
    if any(not np.array_equal(first.reference, one.reference) for pair in pairs for one in pair):
        raise Untestable("the same items have other labels or token counts in other runs")
    return np.stack([one.score - other.score for one, other in pairs]), len(first.weight) / float(first.weight.sum())


def _answers(folder: Path, metric: Figure, run: Record, cache: dict[str, Answers]) -> Answers:
    if run.run_id not in cache:
        answers = _read(folder / run.run_id / PREDICTIONS, metric)
        _check(answers, metric, run)
        cache[run.run_id] = answers
    return cache[run.run_id]


def _read(path: Path, metric: Figure) -> Answers:
    columns = ["id", "label", "prediction"] if metric.kind == "percent" else ["id", "tokens", "nll"]
    try:
        # pandas.read_parquet takes ten times as long for a file as small as this.
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read(columns=columns, use_threads=False)
        found = [table.column(name).to_numpy() for name in columns]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        raise Untestable(f"{path.parent.name} has no {path.name} that can be read, with {', '.join(columns)}") from None
    order = np.argsort(found[0], kind="stable")
    ids, reference, answer = (values[order] for values in found)
    if not len(ids) or len(np.unique(ids)) != len(ids):
        raise Untestable(f"{path.parent.name}: the item ids in {path.name} are not unique")
    if metric.kind == "percent":
        return Answers(ids, reference, (answer == reference).astype(float), np.ones(len(ids)))
    return Answers(ids, reference, -answer.astype(float), reference.astype(float))


def _check(answers: Answers, metric: Figure, run: Record) -> None:
    """Refuse predictions that do not add up to the figure in the record, or for which it has none."""
    recorded = run.metrics.get(metric.name)
    if recorded is None:
        raise Untestable(f"{run.run_id} has no finite {metric.label}")
    mean = float(answers.score.sum() / answers.weight.sum())
    value = mean if metric.kind == "percent" else -mean if metric.kind == "nats" else float(np.exp(-mean))
    if not isinstance(recorded, int | float) or abs(value - recorded) > TOLERANCE * max(abs(recorded), 1e-9):
        raise Untestable(f"{run.run_id}: the predictions give {value:.4f}, the record says {recorded}")


def _in_figure(metric: Figure, gain: Gain) -> tuple[float, float, float]:
    """A gain and its interval as a change of the figure: points, nats, or a share of the baseline's perplexity."""
    if metric.kind == "percent":
        return gain.estimate, gain.low, gain.high
    if metric.kind == "nats":
        return -gain.estimate, -gain.high, -gain.low
    return float(np.expm1(-gain.estimate)), float(np.expm1(-gain.high)), float(np.expm1(-gain.low))
