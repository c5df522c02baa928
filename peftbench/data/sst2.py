"""SST-2: sentences and phrases of film reviews, negative or positive (Socher et al., 2013; GLUE, Wang et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from peftbench.data import assemble, splits
from peftbench.data.base import Dataset, Split, TextData
from peftbench.data.files import column, read_source

if TYPE_CHECKING:
    import pandas as pd

NOTES = (
    "the evaluation split is the public validation split of 872 sentences (dev): the public test split has no labels",
    "train holds phrases of its sentences, so phrases that overlap are both in train and in validation, though no two "
    "texts are equal; dev has whole sentences of its own: expect higher figures on validation than on dev",
    "texts are as published, with the space at the end of GLUE's phrases",
)


class Sst2(Dataset):
    """GLUE's SST-2, from ``stanfordnlp/sst2`` or a folder with its train.parquet and validation.parquet."""

    files: ClassVar[tuple[str, ...]] = ("train", "validation")
    validation_size: int | None = Field(default=2000, ge=1)

    def read(self) -> TextData:
        """See `Dataset.read`; evaluation is called ``dev``."""
        tables = read_source(self.path, "stanfordnlp/sst2", self.files)
        train, dev = (
            self._split(name, *tables[source]) for name, source in (("train", "train"), ("dev", "validation"))
        )
        return assemble.labelled(self, train, None, dev, ("negative", "positive"), NOTES)

    @staticmethod
    def _split(name: str, table: pd.DataFrame, where: object) -> Split:
        texts, labels = (column(table, part, "column", where) for part in ("sentence", "label"))
        return splits.make(name, texts, labels)
