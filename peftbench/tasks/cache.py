"""Token ids kept on disk: the same texts are tokenized once for a tokenizer, however many runs need them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from peftbench.data.splits import hash_texts
from peftbench.files import cache_folder, replaced
from peftbench.tasks.base import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftbench.data.base import Split

FORMAT = 1
"""To be raised whenever the same key would mean other contents."""
PARTS = (-12, os.SEEK_END)
"""Where a zip file says in two bytes how many parts it has."""
log = logging.getLogger(__name__)


class Ragged(NamedTuple):
    """Token ids of many items, one after the other."""

    tokens: np.ndarray
    """int32, shape (total tokens,)."""
    offsets: np.ndarray
    """int64, shape (items + 1,)."""
    truncated: int = 0
    """Items that were cut."""
    segments: np.ndarray | None = None
    """See `Encoded.segments`."""

    @classmethod
    def of(
        cls, items: Sequence[Sequence[int]], truncated: int = 0, segments: Sequence[Sequence[int]] | None = None
    ) -> Ragged:
        """From one list of ids an item, and perhaps one of segments."""
        offsets = np.zeros(len(items) + 1, np.int64)
        np.cumsum([len(item) for item in items], out=offsets[1:])
        count = int(offsets[-1])
        flat = np.fromiter((token for item in items for token in item), np.int32, count=count)
        if segments is None:
            return cls(flat, offsets, truncated)
        return cls(flat, offsets, truncated, np.fromiter((one for item in segments for one in item), np.int8, count))


def folder() -> Path:
    """``$PEFTBENCH_CACHE/tokens``, or ``~/.cache/peftbench/tokens``."""
    return cache_folder() / "tokens"


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) over everything that decides which ids a tokenizer gives, whatever it was used for before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = sorted(tokenizer.get_vocab().items())
    else:
        rules = json.loads(backend.to_str())
        # State left behind by the last call, not part of what the tokenizer is.
        rules.pop("truncation", None)
        rules.pop("padding", None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [type(tokenizer).__name__, rules, special, tokenizer.truncation_side]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def encoded(
    split: Split,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    recipe: dict[str, Any],
    make: Callable[[], Ragged],
    *,
    blocks: bool = False,
) -> Encoded:
    """The `Encoded` of a split: read from the cache, or made and written there.

    Args:
        texts: what is tokenized, item by item.
        recipe: every setting that, with texts and tokenizer, decides the result.
        blocks: items are blocks of running text, numbered from 0, and not the items of ``split``.
    """
    # Rust threads are welcome: nothing here forks after tokenizing. Unset, the library warns at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    path = folder() / f"{_key(texts, tokenizer, recipe)}.npz"
    found = _read(path, items=None if blocks else len(split.texts))
    ragged = found or make()
    if found is None:
        _write(path, ragged)
    count = len(ragged.offsets) - 1
    ids = np.arange(count) if blocks else np.asarray(split.ids, np.int64)
    labels = None if blocks or split.labels is None else np.asarray(split.labels, np.int64)
    cached = found is not None
    return Encoded(ragged.tokens, ragged.offsets, labels, ids, cached, ragged.truncated, ragged.segments)


def _key(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, recipe: dict[str, Any]) -> str:
    import tokenizers
    import transformers

    parts = {
        "format": FORMAT,
        "versions": [tokenizers.__version__, transformers.__version__],
        "texts": hash_texts(texts),
        "tokenizer": tokenizer_identity(tokenizer),
        "recipe": recipe,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(path: Path, items: int | None) -> Ragged | None:
    """What the file holds, or None if there is none or it is damaged.

    Args:
        items: how many there must be; None is any number.
    """
    try:
        held = _arrays(path)
        segments = held["segments"] if len(held) > 3 else None
        ragged = Ragged(held["tokens"], held["offsets"], int(held["truncated"]), segments)
    except FileNotFoundError:
        return None
    except Exception as error:  # a flipped bit may ask for another compression, a password, more memory than there is
        log.info("token cache %s is damaged (%s): tokenizing again", path.name, error)
        return None
    if not _sound(ragged, items):
        log.info("token cache %s is inconsistent: tokenizing again", path.name)
        return None
    return ragged


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file as `numpy.savez` writes it, which trusts more of it than is checked anywhere.

    Raises:
        ValueError: an array does not fill its part of the file, or a part has been lost.
    """
    held = {}
    with path.open("rb") as raw, zipfile.ZipFile(raw) as file:
        for name in file.namelist():
            with file.open(name) as part:
                held[name.removesuffix(".npy")] = np.lib.format.read_array(part, allow_pickle=False)
                if part.read(1):  # the CRC is checked at the end of a part only
                    raise ValueError(f"{name} is longer than its array")
        raw.seek(*PARTS)
        if int.from_bytes(raw.read(2), "little") != len(held):
            raise ValueError("a part is missing")
    return held


def _sound(ragged: Ragged, items: int | None) -> bool:
    """Whether the arrays are what `Ragged` says they are."""
    tokens, offsets, segments = ragged.tokens, ragged.offsets, ragged.segments
    if segments is not None and not (segments.dtype == np.int8 and segments.shape == tokens.shape):
        return False
    if not (tokens.dtype == np.int32 and offsets.dtype == np.int64 and tokens.ndim == offsets.ndim == 1):
        return False
    whole = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(tokens) and bool((np.diff(offsets) >= 0).all())
    return whole and items in (None, len(offsets) - 1)


def _write(path: Path, ragged: Ragged) -> None:
    """Write the file at once or not at all; a cache that cannot be written costs time, not the run."""
    held = {name: np.asarray(part) for name, part in ragged._asdict().items() if part is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **held)
    except OSError as error:
        log.warning("token cache %s cannot be written: %s", path, error)
