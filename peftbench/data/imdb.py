"""IMDB: the Large Movie Review Dataset v1.0, negative or positive (Maas et al., 2011)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from peftbench.data import assemble, splits
from peftbench.data.base import Dataset, TextData
from peftbench.data.files import column, read_source


class Imdb(Dataset):
    """The 25,000 + 25,000 labelled reviews, from ``stanfordnlp/imdb`` or a folder with train.parquet and test.parquet.

    Both files are sorted by label; samples and cuts are stratified and random, so that order is never seen.
    """

    files: ClassVar[tuple[str, ...]] = ("train", "test")
    validation_size: int | None = Field(default=2500, ge=1)
    max_length: int = Field(default=512, ge=4, le=8192)

    def read(self) -> TextData:
        """See `Dataset.read`; evaluation is the public ``test`` split, validation is cut out of train."""
        read = {}
        tables = read_source(self.path, "stanfordnlp/imdb", self.files)
        for name, (table, where) in tables.items():
            texts, labels = (column(table, part, "column", where) for part in ("text", "label"))
            read[name] = splits.make(name, texts, labels)
        return assemble.labelled(self, read["train"], None, read["test"], ("negative", "positive"))
