"""Text and labels in named columns of tables, wherever the tables come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from peftbench.data import assemble
from peftbench.data.base import Dataset, Kind, Split, TextData
from peftbench.data.files import column
from peftbench.data.labels import check_classes, cleaned, decoded, is_nested, one_spelling, value_order
from peftbench.errors import UserError, first_of

if TYPE_CHECKING:
    import pandas as pd

STEMS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What the three splits are called, as `datasets` knows them by the names of files; of several the first is read."""


@dataclass(frozen=True)
class Table:
    """One split, as it was found."""

    name: str
    """See `Split.name`."""
    frame: pd.DataFrame
    where: str
    label_names: Sequence[str] = ()
    """What the numbers in the column of labels mean, from 0; empty where they mean themselves."""


class Columns(Dataset):
    """A data set whose user says which columns hold what."""

    task: Kind = "classification"
    text_column: str | tuple[str, str] = "text"
    """Two columns, [premise,hypothesis], for items that are pairs of texts."""
    label_column: str | None = "label"
    """Strings or numbers; null for language modelling."""
    stride: int | None = Field(default=None, ge=1)
    """Causal language modelling only: tokens by which the evaluation window moves on; null is half of max_length."""

    @field_validator("text_column", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        if not isinstance(value, str) and not (isinstance(value, list | tuple) and len(value) == 2):
            raise ValueError("write the name of a column, or of two for pairs of texts: [premise,hypothesis]")
        return value

    @model_validator(mode="after")
    def _options_fit(self) -> Columns:
        if self.task == "classification" and self.label_column is None:
            raise ValueError(
                "write dataset.label_column=NAME, or dataset.task=language_modeling to learn without labels"
            )
        if self.task == "classification" and self.stride is not None:
            raise ValueError("stride means nothing without dataset.task=language_modeling; write dataset.stride=null")
        if self.task == "language_modeling" and self.label_column is not None:
            raise ValueError("language modelling uses no labels; write dataset.label_column=null")
        if self.task == "language_modeling" and not isinstance(self.text_column, str):
            raise ValueError("language modelling has no pairs; write dataset.text_column=NAME with one column")
        if self.stride is not None and self.stride >= self.max_length:
            raise ValueError("stride must be less than max_length, so that every window has something to start from")
        return self

    @property
    def kind(self) -> Kind:
        """See `Dataset.kind`."""
        return self.task

    @abstractmethod
    def tables(self, notes: list[str]) -> dict[str, Table]:
        """``train``, and ``validation`` and ``test`` where there are any; what a reader must know goes to ``notes``.

        Raises:
            UserError: they cannot be read, or there is no train.
        """

    def without_unlabelled_test(self, tables: dict[str, Table], notes: list[str]) -> None:
        """Take a test split out of ``tables`` that has no labels, as competitions have; hubs say -1, or nothing."""
        test, name = tables.get("test"), self.label_column
        if test is None or name is None:
            return
        train = tables["train"].frame
        # Where -1 is a class of train it is one of test, unless classes have names: those are counted from 0.
        is_class = not test.label_names and name in train and train[name].isin([-1, "-1"]).any()
        none = [""] if is_class else [-1, "-1", ""]
        # What is missing is None, NaN or NA, by the type of the column.
        if name not in test.frame or test.frame[name].dropna().isin(none).all():
            notes.append("the public test split has no labels and is left out")
            del tables["test"]

    def read(self) -> TextData:
        """See `Dataset.read`; a split that is cut out of train says so in its name."""
        notes: list[str] = []
        tables = self.tables(notes)
        found = {name: _Source(self, table, notes) for name, table in tables.items()}
        if self.kind == "language_modeling":
            plain = {name: source.split(None) for name, source in found.items()}
            return assemble.corpus(self, plain["train"], plain.get("validation"), plain.get("test"), notes)
        classes = one_spelling({label for source in found.values() for label in source.labels})
        values = sorted(set(classes.values()), key=value_order)
        check_classes(values, len(found["train"].texts), self.label_column)
        numbers = {value: index for index, value in enumerate(values)}
        known = {label: numbers[value] for label, value in classes.items()}
        read = {name: source.split(known) for name, source in found.items()}
        _same_classes(read, values)
        names = [_name(value, tables["train"].label_names) for value in values]
        return assemble.labelled(self, read["train"], read.get("validation"), read.get("test"), names, notes)


def note_unread(names: Sequence[str], notes: list[str]) -> None:
    """Say what is public, or in the folder, and is neither trained nor evaluated on."""
    if names:
        notes.append(f"not read: {first_of(names)}")


class _Source:
    """One table: texts that are not blank, their labels and their rows."""

    def __init__(self, options: Columns, table: Table, notes: list[str]) -> None:
        where, self.name = table.where, table.name
        if table.frame.empty:
            raise UserError(f"{where} has no rows: write a file with at least a few items of each class")
        names = (options.text_column,) if isinstance(options.text_column, str) else options.text_column
        raw = [_texts(table.frame, column_, where) for column_ in names]
        # Language modelling leaves out blank lines by itself, and says so.
        blank_too = options.kind == "language_modeling"
        kept = reduce(and_, (texts.notna() if blank_too else _filled(texts) for texts in raw))
        if dropped := int((~kept).sum()):
            notes.append(f"{where.rpartition('/')[-1]}: {dropped:,} rows without text left out")
        name = options.label_column
        labels = None if name is None else column(table.frame, name, "dataset.label_column", where)
        if labels is not None and table.label_names:
            kept = _labelled(kept, labels, where, notes)
        self.rows = [i for i, keep in enumerate(kept) if keep]
        self.texts, *more = ([str(text) for text in texts[kept]] for texts in raw)
        self.seconds = more[0] if more else None
        self.labels: list[str | int] = []
        if labels is not None:
            self.labels = cleaned(labels[kept].tolist(), self.rows, where, str(name))

    def split(self, known: Mapping[str | int, int] | None) -> Split:
        """The table as a split; classes are numbered by ``known``, None is without labels."""
        labels = None if known is None else [known[label] for label in self.labels]
        return Split(self.name, self.texts, labels, self.rows, self.seconds)


def _labelled(kept: pd.Series, labels: pd.Series, where: str, notes: list[str]) -> pd.Series:
    """``kept`` without the rows whose label is -1: hubs say so of rows without one, where classes are counted from 0.

    Raises:
        UserError: no row is left.
    """
    lacking = kept & labels.isin([-1])
    if lacking.sum() == kept.sum():
        raise UserError(
            f"{where}: no row has a label (all are -1); write dataset.label_column=NAME, or choose another set"
        )
    if lacking.any():
        notes.append(f"{where.rpartition('/')[-1]}: {int(lacking.sum()):,} rows without a label (-1) left out")
    return kept & ~lacking


def _filled(texts: pd.Series) -> pd.Series:
    return texts.notna() & (texts.astype(str).str.strip() != "")


def _texts(table: pd.DataFrame, name: str, where: str) -> pd.Series:
    """One column of texts. Lists and mappings are none: they would be learned as Python writes them."""
    values = column(table, name, "dataset.text_column", where).map(decoded)
    other = next((value for value in values if is_nested(value)), None)
    if other is not None:
        raise UserError(
            f"{where}: column {name} holds {type(other).__name__} values such as {str(other)[:60]}, and no text; "
            "write dataset.text_column=NAME with one of texts"
        )
    if not _filled(values).any():
        raise UserError(f"{where}: column {name} has no text; write dataset.text_column=NAME")
    return values


def _same_classes(read: dict[str, Split], values: list[str | int]) -> None:
    """A class that train lacks cannot be learned, and is most often a misspelt label."""
    for split in read.values():
        unknown = set(split.labels or ()) - set(read["train"].labels or ())
        if unknown:
            shown = ", ".join(repr(values[index]) for index in sorted(unknown))
            raise UserError(f"the {split.name} split has labels that train lacks: {shown}; mend them or leave them out")


def _name(label: str | int, names: Sequence[str]) -> str:
    return names[label] if isinstance(label, int) and label in range(len(names)) else str(label)
