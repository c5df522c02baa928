"""WikiText-2: verified Wikipedia articles for language modelling (Merity et al., 2016)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from peftbench.data import assemble, splits
from peftbench.data.base import Dataset, Kind, TextData
from peftbench.data.files import column, read_source

UNK = "<unk>"
UNK_NOTE = (
    "this is the word-level copy: its <unk> is mapped to the tokenizer's unknown token where that is a token of its "
    "own, and stays the text '<unk>' otherwise (GPT-2, whose nominal unknown token is its end of text)"
)


class Wikitext2(Dataset):
    """WikiText-2, from ``Salesforce/wikitext`` or a folder with train, validation and test.parquet.

    Sizes count its lines, which are headings and paragraphs.
    """

    files: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    variant: Literal["v1", "raw"] = "v1"
    """Word level with ``<unk>`` for rare words, or the raw text."""
    max_length: int = Field(default=512, ge=4, le=8192)
    stride: int | None = Field(default=None, ge=1)
    """Causal models: tokens by which the evaluation window moves on; null is half of ``max_length``."""

    @model_validator(mode="after")
    def _stride_fits(self) -> Wikitext2:
        if self.stride is not None and self.stride >= self.max_length:
            raise ValueError("stride must be less than max_length, so that every window has something to start from")
        return self

    @property
    def kind(self) -> Kind:
        """See `Dataset.kind`."""
        return "language_modeling"

    @property
    def unk_literal(self) -> str | None:
        """The text that stands for an unknown word, which the task maps to the tokenizer's token."""
        return UNK if self.variant == "v1" else None

    def read(self) -> TextData:
        """See `Dataset.read`; evaluation is ``test``."""
        config = f"wikitext-2-{'raw-v1' if self.variant == 'raw' else 'v1'}"
        tables = read_source(self.path, "Salesforce/wikitext", self.files, config)
        read = {
            name: splits.make(name, column(table, "text", "column", where)) for name, (table, where) in tables.items()
        }
        notes = (UNK_NOTE,) if self.unk_literal else ()
        return assemble.corpus(self, read["train"], read["validation"], read["test"], notes)
