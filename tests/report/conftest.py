"""Synthetic sweep folders: records and predictions that agree with each other, made from known chances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from peftbench.record import Record


class Folder:
    """A sweep folder that runs are added to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rng = np.random.default_rng(7)

    def run(
        self, method: str = "lora", seed: int = 0, *, rank: int | None = 8, lr: float = 1e-4, **changes: Any
    ) -> Record:
        """A record with neither figures nor predictions; ``changes`` replace its fields."""
        axes = {"method": method, "dataset": "sst2", "model": "tiny", "rank": rank}
        axes |= {"sparsity": "none", "ratio": None, "seed": seed, **changes.pop("axes", {})}
        config = {
            "method": {"name": method},
            "rank": None if rank is None else {"value": rank},
            "seed": seed,
            "sweep": "s",
        }
        config |= {
            "trainer": {"lr": lr, "precision": "auto"},
            "sparsity": {"name": axes["sparsity"], "ratio": axes["ratio"]},
        }
        config |= {"dataset": {"name": axes["dataset"]}, "model": {"name": axes["model"]}}
        sparsity = f"{axes['sparsity']}{axes['ratio'] or ''}"
        run_id = f"{method}-{axes['dataset']}-{axes['model']}-r{rank}-{sparsity}-lr{lr:g}-s{axes['seed']}"
        data = {"fingerprint": "f" * 64, "splits": {"evaluation": {"name": "dev", "size": 400}}}
        fields: dict[str, Any] = {
            "run_id": run_id,
            "sweep": "s",
            "status": "ok",
            "config": config,
            "config_hash": "0" * 64,
        }
        fields |= {"axes": axes, "data": data, "environment": {"device": "cpu", "precision": "fp32"}}
        record = Record(**{**fields, **changes})
        record.write(self.path / record.run_id)
        return record

    def classified(
        self,
        method: str = "lora",
        seed: int = 0,
        *,
        accuracy: float = 0.9,
        items: int = 400,
        first: int = 0,
        **changes: Any,
    ) -> Record:
        """A run of the given expected accuracy: nine of ten items are as hard for every run, as real items are."""
        label = np.arange(items) % 2
        shared, own = np.random.default_rng(1).random(items), self.rng.random((2, items))
        correct = np.where(own[0] < 0.9, shared, own[1]) < accuracy
        answers = {"id": np.arange(items) + first, "label": label, "prediction": np.where(correct, label, 1 - label)}
        metrics = {"quality/accuracy": float(correct.mean()), **costs(self.rng), **changes.pop("metrics", {})}
        selection = {"rule": "best", "metric": "validation/accuracy", "step": 1, "value": accuracy}
        record = self.run(method, seed, metrics=metrics, **{"selection": selection, **changes})
        pd.DataFrame(answers).to_parquet(self.path / record.run_id / "predictions.parquet")
        return record

    def modelled(
        self, method: str = "lora", seed: int = 0, *, nll: float = 3.0, windows: int = 60, **changes: Any
    ) -> Record:
        """A causal language model with the given mean loss a token."""
        tokens = np.where(np.arange(windows) % 7 == 0, 100, 128)
        difficulty = np.random.default_rng(1).normal(0, 0.3, windows)
        total = tokens * (nll + difficulty + self.rng.normal(0, 0.02, windows))
        metrics = {"quality/perplexity": float(np.exp(total.sum() / tokens.sum())), **costs(self.rng)}
        data = {"fingerprint": "e" * 64, "splits": {"evaluation": {"name": "test", "size": windows}}}
        record = self.run(method, seed, metrics=metrics, axes={"dataset": "wikitext2"}, data=data, **changes)
        answers = {"id": np.arange(windows), "tokens": tokens, "nll": total}
        pd.DataFrame(answers).to_parquet(self.path / record.run_id / "predictions.parquet")
        return record


def costs(rng: np.random.Generator) -> dict[str, float | int | str]:
    """Plausible figures besides the quality."""
    return {
        "params/adapter": 147_456,
        "params/head": 1_538,
        "size/adapter_bytes": 592_136,
        "memory/train_peak_bytes": int(1.2e9 + rng.integers(1e7)),
        "memory/source": "process_rss",
        "speed/train_tokens_per_s": float(12_000 + rng.normal(0, 100)),
        "time/train_s": 12.5,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "outputs" / "s"
    path.mkdir(parents=True)
    return Folder(path)
