"""The names of all figures that a run of ours may have; docs/metrics.md says what each is."""

from __future__ import annotations

import difflib

NAMES = (
    "quality/accuracy",
    "quality/f1",
    "quality/mcc",
    "quality/loss",
    "quality/perplexity",
    "quality/mlm_loss",
    "quality/mlm_pseudo_perplexity",
    "params/adapter",
    "params/head",
    "params/trainable",
    "params/total",
    "params/adapter_nonzero",
    "sparsity/achieved",
    "sparsity/target",
    "size/adapter_bytes",
    "size/head_bytes",
    "size/base_bytes",
    "memory/train_peak_bytes",
    "memory/eval_peak_bytes",
    "memory/source",
    "speed/train_tokens_per_s",
    "speed/train_samples_per_s",
    "speed/train_step_ms_p50",
    "speed/train_step_ms_p95",
    "speed/infer_latency_ms_p50",
    "speed/infer_latency_ms_p95",
    "speed/infer_samples_per_s",
    "speed/infer_merged_latency_ms_p50",
    "speed/infer_merged_latency_ms_p95",
    "speed/infer_merged_samples_per_s",
    "padding/efficiency",
    "flops/train_per_token",
    "flops/frozen_linear_fraction",
    "time/load_s",
    "time/tokenize_s",
    "time/train_s",
    "time/eval_s",
    "time/total_s",
    "energy/train_j",
)
EVALUATION, VALIDATION = "quality/", "validation/"
"""How figures begin that are measured on the evaluation split, and on the validation split."""


def validated(name: str) -> str:
    """What the figure ``name`` (``quality/...``) is called on the validation split."""
    return VALIDATION + name.removeprefix(EVALUATION)


VALIDATED = tuple(validated(name) for name in NAMES if name.startswith(EVALUATION))
"""What a validation reports, in its history and of the checkpoint that was selected."""
ALIKE = 0.85
"""From which likeness on an unknown name is a known one misspelt; a method may have figures of its own."""


def misspelt(name: str) -> str | None:
    """The figure that ``name`` is meant to be, if it is none and one is called much the same."""
    known = (*NAMES, *VALIDATED)
    near = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)
    return near[0] if near else None
