"""Small tables of labelled texts, written in every format."""

from __future__ import annotations

import pandas as pd

from peftbench.data.text import Text


def frame(count: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "review": [f'NA words, "quoted" and\na line {i}' for i in range(count)],
            "mood": ["glad" if i % 3 else "sad" for i in range(count)],
        }
    )


def write(table: pd.DataFrame, path) -> str:
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".tsv":
            table.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case ".json":
            table.to_json(path, orient="records")
        case ".parquet":
            table.to_parquet(path)
    return str(path)


def dataset(path, **options) -> Text:
    return Text(name="text", path=str(path), **{"text_column": "review", "label_column": "mood"} | options)
