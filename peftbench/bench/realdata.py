"""The texts that benchmarks are run on: real ones from a folder, or a few made-up sentences for a quick run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.bench.frame import Options
from peftbench.errors import UserError

FILES = {"sst2": ("train.parquet", "validation.parquet"), "imdb": ("train.parquet", "test.parquet")}


def find(options: Options, name: str) -> Path:
    """The folder of a data set.

    Raises:
        UserError: its files are not there.
    """
    folder = options.data / name
    if missing := [file for file in FILES[name] if not (folder / file).is_file()]:
        raise UserError(
            f"no {' and no '.join(missing)} in {folder}: write --data FOLDER (or set PEFTBENCH_DATA) with the folder "
            f"that holds {name}/{FILES[name][0]}"
        )
    return folder.resolve()


def write(folder: Path, name: str, texts: Sequence[str], labels: Sequence[int]) -> None:
    """``<name>.parquet`` with the columns of GLUE's SST-2."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"sentence": list(texts), "label": list(labels)}).to_parquet(folder / f"{name}.parquet", index=False)


def make_up(folder: Path) -> Path:
    """A folder like SST-2's, with a few sentences that mean nothing."""
    for name, count in (("train", 80), ("validation", 16)):
        labels = [index % 2 for index in range(count)]
        words = ("poor", "great")
        texts = [f"{words[label]} film {name} {'so ' * (i % 7)}{i}" for i, label in enumerate(labels)]
        write(folder, name, texts, labels)
    return folder
