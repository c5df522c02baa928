"""How each figure of the glossary is called, scaled and written. A missing figure is a dash, never a zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from peftbench.glossary import validated

DASH = "–"
Kind = Literal["percent", "plain", "nats", "bytes", "count", "flop", "rate", "ms", "s", "j"]


@dataclass(frozen=True)
class Figure:
    """One metric: its name in the records, its label in tables, and what it measures."""

    name: str
    label: str
    kind: Kind
    higher_is_better: bool = False
    main: bool = False
    """Whether it has a column that is always shown."""

    @property
    def validation(self) -> str:
        """What the figure of the validation split is called in histories and selections."""
        return validated(self.name)


QUALITY = (
    Figure("quality/accuracy", "accuracy", "percent", True),
    Figure("quality/perplexity", "perplexity", "plain"),
    Figure("quality/mlm_loss", "MLM loss", "nats"),
    Figure("quality/loss", "loss", "nats"),
)
"""In order of preference: the first that a record names is what its table is about."""

COSTS = (
    Figure("params/adapter", "adapter params", "count", main=True),
    Figure("memory/train_peak_bytes", "peak memory", "bytes", main=True),
    Figure("speed/train_tokens_per_s", "train tokens/s", "rate", True, main=True),
    Figure("size/adapter_bytes", "adapter size", "bytes", main=True),
    Figure("speed/infer_latency_ms_p50", "latency p50", "ms", main=True),
    Figure("speed/infer_merged_latency_ms_p50", "merged latency p50", "ms"),
    Figure("speed/infer_samples_per_s", "inference samples/s", "rate", True),
    Figure("time/train_s", "train time", "s"),
    Figure("speed/train_step_ms_p50", "step p50", "ms"),
    Figure("flops/train_per_token", "train FLOP/token", "flop"),
    Figure("energy/train_j", "train energy", "j"),
    Figure("memory/eval_peak_bytes", "evaluation memory", "bytes"),
    Figure("padding/efficiency", "padding efficiency", "percent", True),
    Figure("params/head", "head params", "count"),
    Figure("params/trainable", "trainable params", "count"),
    Figure("params/total", "total params", "count"),
    Figure("size/base_bytes", "base weights", "bytes"),
    Figure("size/head_bytes", "head size", "bytes"),
    Figure("speed/train_step_ms_p95", "step p95", "ms"),
    Figure("speed/infer_latency_ms_p95", "latency p95", "ms"),
    Figure("time/eval_s", "evaluation time", "s"),
    Figure("time/total_s", "total time", "s"),
    Figure("quality/f1", "macro F1", "percent", True),
    Figure("quality/mcc", "MCC", "plain", True),
    Figure("quality/loss", "loss", "nats"),
)
"""Means beside the quality, the most asked for first: a narrow terminal drops from the end."""

ACHIEVED = Figure("sparsity/achieved", "achieved sparsity", "percent", main=True)
"""Stands beside the sparsity that was asked for."""
UNSTEADY = 0.1
"""Repeated measurements further apart than this share of their mean are marked."""
ENDLESS = 1e6
"""Quality figures from here on are written with a power of ten: a perplexity may have hundreds of digits."""

_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B")),
    "count": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")),
    "flop": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")),
}
_UNITS = {"percent": (0.01, "%"), "ms": (1.0, "ms"), "s": (1.0, "s"), "nats": (1.0, "nats"), "j": (1.0, "J")}


def quality(metrics: dict[str, Any]) -> Figure:
    """The main quality figure of a record: the loss, which every task has, if it names none."""
    return next((figure for figure in QUALITY if figure.name in metrics), QUALITY[-1])


def possible(figure: Figure) -> tuple[float, float]:
    """The least and the greatest value that a quality figure can have."""
    return {"percent": (0.0, 1.0), "plain": (1.0, math.inf)}.get(figure.kind, (0.0, math.inf))


def missing(value: Any) -> bool:
    """Whether a value stands for "not measured"."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def scale(kind: str, values: Iterable[Any]) -> tuple[float, str]:
    """The divisor and the unit that a whole column is written in, so that its rows can be compared at a glance."""
    present = [abs(float(value)) for value in values if not missing(value)]
    largest = max(present, default=0.0)
    for divisor, unit in _SCALES.get(kind, ()):
        if largest >= divisor:
            return divisor, unit
    return _UNITS.get(kind, (1.0, ""))


def number(value: Any, divisor: float = 1.0) -> str:
    """Three significant digits below a thousand, whole numbers with separators above, a dash for what is missing."""
    if missing(value):
        return DASH
    scaled = float(value) / divisor
    if abs(scaled) >= 999.5:
        return f"{scaled:,.0f}"
    if scaled == 0:
        return "0"
    # The digits follow the rounded value: 0.9996 is 1.00, not 1.000.
    digits = 2 - math.floor(math.log10(abs(float(f"{scaled:.2e}"))))
    return f"{scaled:.{min(max(digits, 0), 6)}f}"


def score(figure: Figure, value: Any) -> str:
    """A quality figure, with the same number of decimals in every row but those of networks that have diverged."""
    if missing(value):
        return DASH
    return _written(figure, float(value) * (100 if figure.kind == "percent" else 1))


def change(figure: Figure, value: Any) -> str:
    """A difference from the baseline, signed: points of accuracy, per cent of perplexity, or nats."""
    if missing(value):
        return DASH
    text = _written(figure, float(value) * (1 if figure.kind == "nats" else 100), "+")
    return text.replace("-", "−") + ("%" if figure.kind == "plain" else "")


def _written(figure: Figure, scaled: float, sign: str = "") -> str:
    decimals = 4 if figure.kind == "nats" else 2
    return f"{scaled:{sign},.{decimals}f}" if abs(scaled) < ENDLESS else f"{scaled:{sign}.3g}"


def change_unit(figure: Figure) -> str:
    """What the differences of `change` are counted in."""
    return {"percent": "percentage points", "nats": "nats"}.get(figure.kind, "per cent of the baseline's perplexity")
