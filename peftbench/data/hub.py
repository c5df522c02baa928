"""Any data set of the Hugging Face hub, or what `datasets` saved of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from peftbench.component import named
from peftbench.data.columns import STEMS, Columns, Table, note_unread
from peftbench.errors import UserError
from peftbench.hub import load_dataset

if TYPE_CHECKING:
    import datasets
    import pandas as pd

SAVED = ("dataset_dict.json", "dataset_info.json")
"""What `DatasetDict.save_to_disk` and `Dataset.save_to_disk` write beside the data."""


class Hub(Columns):
    """A data set by its hub id, or a folder that ``save_to_disk`` wrote; a null name is made of either.

    Public test splits are often without labels. Such a one is left out and the public validation split is evaluated on,
    as published figures are; what selects is then cut out of train.
    """

    id: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$")
    config: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Which part of it, e.g. ``cola`` of ``nyu-mll/glue``."""

    @model_validator(mode="before")
    @classmethod
    def _has_a_source(cls, fields: dict[str, Any]) -> dict[str, Any]:
        source = fields.get("path") or fields.get("id")
        if not source:
            raise ValueError(
                "write dataset.id=OWNER/NAME for one of the hub, or dataset.path=DIR for what save_to_disk wrote"
            )
        if fields.get("name") is None and fields.get("path") and fields.get("id"):
            # Where there is a name, it is a file's that says what id is, and path has a copy of that.
            raise ValueError("id is of the hub, and path is a folder instead: write one of them")
        part = fields.get("config")
        if part and fields.get("path"):
            raise ValueError("config chooses a part of a hub's data set, and path is a part already: write one of them")
        return named(fields, f"{source}-{part}" if part else str(source))

    @model_validator(mode="after")
    def _path_is_saved(self) -> Hub:
        if self.path is not None and not is_saved(Path(self.path).expanduser()):
            raise ValueError(
                f"path: no {' or '.join(SAVED)} there, which datasets' save_to_disk writes; "
                "write dataset=text for CSV, JSON or Parquet files"
            )
        return self

    def tables(self, notes: list[str]) -> dict[str, Table]:
        """See `Columns.tables`."""
        found = (
            load_dataset(str(self.id), self.config) if self.path is None else _load_saved(Path(self.path).expanduser())
        )
        names = {split: next((stem for stem in stems if stem in found), None) for split, stems in STEMS.items()}
        if names["train"] is None:
            raise UserError(f"dataset={self.name}: no train split, but {', '.join(found)}; choose another data set")
        tables = {split: self._table(split, found[name], name) for split, name in names.items() if name is not None}
        note_unread([name for name in found if name not in names.values()], notes)
        self.without_unlabelled_test(tables, notes)
        if "test" not in tables and "validation" in tables:
            notes.append("the evaluation split is the public validation split (dev)")
            tables["test"] = replace(tables.pop("validation"), name="dev")
        return tables

    def _table(self, split: str, data: datasets.Dataset, name: str) -> Table:
        kind = data.features.get(self.label_column or "")
        frame: pd.DataFrame = data.to_pandas()
        return Table(split, frame, f"{self.name} ({name})", tuple(getattr(kind, "names", None) or ()))


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return any((path / name).is_file() for name in SAVED)


def _load_saved(folder: Path) -> Mapping[str, datasets.Dataset]:
    """The splits in a folder; a single data set is train.

    Raises:
        UserError: it cannot be read.
    """
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise UserError(
            f"dataset.path={folder} cannot be read, save it again ({type(error).__name__}: {error})"
        ) from error
    return {"train": found} if isinstance(found, datasets.Dataset) else found
