"""What a dataset is: labelled or plain text, in three named splits that never overlap."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from peftbench.component import Component
from peftbench.data.files import PARQUET, find_tables, parquet
from peftbench.errors import UserError, first_of

if TYPE_CHECKING:
    from peftbench.config import RunConfig

Kind = Literal["classification", "language_modeling"]
PLAIN = (list, tuple, range, type(None))
"""What is indexed by position, as NumPy's arrays are."""


@dataclass(frozen=True)
class Split:
    """Raw text of one split, in a fixed order."""

    name: str
    """What it is called in tables, e.g. ``train``, ``validation (cut from train)``, ``dev``, ``test``."""
    texts: Sequence[str]
    labels: Sequence[int] | None
    ids: Sequence[int]
    """Row of each item in its source file, so that predictions can be traced back and paired."""
    seconds: Sequence[str] | None = None
    """The second text of each item, where an item is a pair (a premise and its hypothesis)."""

    def __post_init__(self) -> None:
        """Raise a UserError if an item lacks something, or a text is none. A column of pandas is taken by position."""
        for name in ("texts", "labels", "ids", "seconds"):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Iterable | None):
                raise UserError(f"the {self.name} split has one value for its {name}: write a list, with one an item")
            if not isinstance(values, PLAIN) and type(values).__module__ != "numpy":
                # A pandas.Series would be asked for the rows that its index calls so, which others then are.
                object.__setattr__(self, name, list(values))
        seconds = () if self.seconds is None else self.seconds
        for name, values in (("labels", self.labels), ("ids", self.ids), ("second texts", self.seconds)):
            if values is not None and len(values) != len(self.texts):
                counts = f"{len(self.texts):,} texts and {len(values):,} {name}"
                raise UserError(f"the {self.name} split has {counts}: give each text one")
        kinds = {*map(type, self.texts), *map(type, seconds)}
        if other := sorted(kind.__name__ for kind in kinds if not issubclass(kind, str)):
            raise UserError(
                f"the {self.name} split has {first_of(other)} among its texts: leave such items out, or write a str"
            )

    @property
    def contents(self) -> Sequence[str]:
        """All that an item says, as one string each."""
        if self.seconds is None:
            return self.texts
        return [f"{first}\0{second}" for first, second in zip(self.texts, self.seconds, strict=True)]


@dataclass(frozen=True)
class TextData:
    """The three splits of a dataset. ``evaluation`` is touched once, after selection on ``validation``."""

    train: Split
    validation: Split
    evaluation: Split
    label_names: tuple[str, ...]
    """Empty for language modelling."""
    fingerprint: str
    """SHA-256 (hex) over texts, labels and ids of all three splits."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know (a mapped token, a subset, ...)."""


class Dataset(Component, ABC):
    """One dataset. Subclasses are one file in this folder and one YAML in ``conf/dataset``."""

    files: ClassVar[tuple[str, ...]] = ()
    """The splits whose Parquet files a folder given as ``path`` must hold."""
    path: str | None = None
    """A local folder (or file) to read instead of the hub."""
    train_size: int | None = Field(default=None, ge=1)
    """At most this many training items (seeded, stratified sample); None is all."""
    validation_size: int | None = Field(default=None, ge=1)
    """Items cut out of train for selection where the dataset has no validation split of its own."""
    eval_size: int | None = Field(default=None, ge=1)
    """At most this many evaluation items (seeded, stratified sample); None is all."""
    max_length: int = Field(default=128, ge=4, le=8192)
    """Tokens an item is cut to (language modelling: tokens a block holds)."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of every cut and sample: apart from the run's seed, so that all seeds see the same items."""

    @field_validator("path")
    @classmethod
    def _path_exists(cls, path: str | None) -> str | None:
        # Checked while composing: a typing error must not cost a started run.
        if path is None:
            return None
        where = os.path.expanduser(path)
        if not os.path.exists(where):
            raise ValueError("there is no such file or folder; write the path of an existing one, or null for the hub")
        folder = Path(where)
        missing = [name for name in cls.files if folder.is_dir() and not find_tables(folder, name, suffixes=PARQUET)]
        if missing:
            lacking, wanted = (", ".join(map(parquet, names)) for names in (missing, cls.files))
            raise ValueError(
                f"the folder has no {lacking}; it must hold {wanted} (or train-00000-of-00001.parquet, ...)"
            )
        return path

    @property
    def kind(self) -> Kind:
        """What is learned from it; decides the task, together with the model."""
        return "classification"

    def conflict(self, run: RunConfig) -> str | None:
        """Why this dataset cannot be combined with the rest of ``run``, or None. Called while composing: no torch."""
        return None

    @abstractmethod
    def read(self) -> TextData:
        """Read, clean, cut and sample the three splits.

        Raises:
            UserError: files or columns are missing, nothing is left to train on, or there is one class only.
        """
