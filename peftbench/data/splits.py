"""Cutting and sampling splits: seeded, stratified, and without one text on two sides.

Every random choice is an order over the items of which a prefix is taken, so a smaller sample is always part of a
larger one, and what one option cuts off does not depend on another option.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from peftbench.data.base import Split

if TYPE_CHECKING:
    import numpy as np


def make(name: str, texts: Iterable[str], labels: Iterable[int] | None = None) -> Split:
    """A whole source file as a split; ids are its rows."""
    rows = list(texts)
    return Split(name, rows, None if labels is None else [int(label) for label in labels], range(len(rows)))


def take(split: Split, positions: Iterable[int], name: str | None = None) -> Split:
    """The items at ``positions`` of ``split``, in that order."""
    index = [int(position) for position in positions]
    texts, ids = [split.texts[i] for i in index], [split.ids[i] for i in index]
    labels = None if split.labels is None else [split.labels[i] for i in index]
    seconds = None if split.seconds is None else [split.seconds[i] for i in index]
    return Split(name or split.name, texts, labels, ids, seconds)


def in_source_order(split: Split) -> Split:
    """The same items by ascending id."""
    return take(split, sorted(range(len(split.ids)), key=lambda i: split.ids[i]))


def content_keys(texts: Iterable[str]) -> list[str]:
    """What makes two texts the same: their words, whatever the spacing and case."""
    return [" ".join(text.split()).casefold() for text in texts]


def without_overlap(split: Split, *others: Split) -> tuple[Split, int]:
    """``split`` less every item whose text is also in one of ``others``, and how many those were."""
    taken = {key for other in others for key in content_keys(other.contents)}
    kept = [i for i, key in enumerate(content_keys(split.contents)) if key not in taken]
    return take(split, kept), len(split.texts) - len(kept)


def stratified_order(labels: Sequence[int] | None, count: int, seed: int, purpose: str) -> np.ndarray:
    """A random order of ``count`` items every prefix of which has the classes in proportion.

    Item number k of a class with c items (shuffled) is put at ``(k + u) / c`` of the way, with u uniform in [0, 1).

    Args:
        labels: one class an item, or None for a plain shuffle.
        purpose: what the order is for; each purpose has its own stream of random numbers.
    Returns:
        int64, shape (count,): a permutation of the positions.
    """
    import numpy as np

    stream = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    random = np.random.default_rng([seed, stream])
    shuffled = random.permutation(count)
    if labels is None:
        return shuffled
    classes = np.asarray(labels)[shuffled]
    place = np.empty(count)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
    return shuffled[np.argsort(place, kind="stable")]


def cut(split: Split, size: int, seed: int, name: str) -> tuple[Split, Split]:
    """Cut ``size`` items off ``split``: (what is left, in the order it had; the part, in random order).

    Only texts that occur once are cut off, so no text is on both sides; repeated ones stay in what is left. The part
    is smaller than ``size`` if there are not as many such texts.
    """
    keys = content_keys(split.contents)
    often = Counter(keys)
    single = [i for i, key in enumerate(keys) if often[key] == 1]
    labels = None if split.labels is None else [split.labels[i] for i in single]
    order = stratified_order(labels, len(single), seed, f"cut {name}")
    chosen = [single[i] for i in order[:size]]
    gone = set(chosen)
    return take(split, (i for i in range(len(keys)) if i not in gone)), take(split, chosen, name)


def cut_end(split: Split, size: int, name: str) -> tuple[Split, Split]:
    """Cut the last ``size`` items off ``split``: running text stays running text on both sides."""
    first = len(split.texts) - size
    return take(split, range(first)), take(split, range(first, len(split.texts)), name)


def sample(split: Split, size: int | None, seed: int) -> Split:
    """At most ``size`` items (None: all), stratified, in a random order every prefix of which is stratified."""
    order = stratified_order(split.labels, len(split.texts), seed, f"sample {split.name}")
    return take(split, order[:size])


def run_of(split: Split, size: int | None, seed: int) -> Split:
    """At most ``size`` neighbouring items (None: all) from a random start: running text must stay in one piece."""
    import numpy as np

    count = len(split.texts)
    if size is None or size >= count:
        return split
    start = int(np.random.default_rng([seed, count]).integers(count - size + 1))
    return take(split, range(start, start + size))


def hash_texts(texts: Iterable[str]) -> str:
    """SHA-256 (hex) over texts; no two lists of texts are hashed as the same bytes."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def fingerprint(*splits: Split) -> str:
    """SHA-256 (hex) over texts, labels and ids of all ``splits``, in order."""
    digest = hashlib.sha256()
    for split in splits:
        labels = None if split.labels is None else list(split.labels)
        digest.update(f"{len(split.texts)} {hash_texts(split.contents)} {labels} {list(split.ids)}\n".encode())
    return digest.hexdigest()
