"""From source files to the three splits of a run: overlaps out, missing splits cut, sizes as configured."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.data import splits
from peftbench.data.base import Dataset, Split, TextData
from peftbench.errors import UserError, first_of

EVALUATION_SHARE = 0.2
"""Of all items, where a source has no split to evaluate on."""
CUT_NAME = "test (own split)"
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 2000
"""Of train, where ``validation_size`` is null."""


def labelled(
    dataset: Dataset,
    train: Split,
    validation: Split | None,
    evaluation: Split | None,
    label_names: Sequence[str],
    notes: Sequence[str] = (),
    cut_name: str = CUT_NAME,
) -> TextData:
    """The three splits of a classification data set.

    A public evaluation split is left as published; what it shares with train goes out of train. Splits that are None
    are cut out of train. Train and validation come in random order, evaluation in the order of its source.

    Raises:
        UserError: a split is empty, or has no text of its own, or train has one class only.
    """
    written = [*notes]
    if evaluation is None:
        _check(train, "train")
        size = max(1, round(EVALUATION_SHARE * len(train.texts)))
        train, evaluation = _cut(dataset, train, size, cut_name)
    train = _disjoint(train, evaluation, written, spare=evaluation)
    if validation is None:
        train, validation = _cut_validation(dataset, train, written)
    else:
        validation = _disjoint(validation, evaluation, written, spare=validation)
        train = _disjoint(train, validation, written, spare=validation)
        validation = _sized(validation, dataset.validation_size, dataset, "validation_size", written)
    train = _sized(train, dataset.train_size, dataset, "train_size", written)
    evaluation = splits.in_source_order(_sized(evaluation, dataset.eval_size, dataset, "eval_size", written))
    _check(train, "train", least_classes=2)
    _check(validation, "validation")
    _check(evaluation, "evaluation")
    _note_classes(train, label_names, written, "nothing is learned about them")
    _note_classes(evaluation, label_names, written, "no figure says anything about them")
    mark = splits.fingerprint(train, validation, evaluation)
    return TextData(train, validation, evaluation, tuple(label_names), mark, tuple(written))


def corpus(
    dataset: Dataset,
    train: Split,
    validation: Split | None,
    evaluation: Split | None,
    notes: Sequence[str] = (),
) -> TextData:
    """The three splits of a language modelling data set; every item is a document or a line, in its order.

    Blank items are left out. Sizes count items and take neighbouring ones, so that text stays running text; splits that
    are None are cut off the end of train. Lines that splits share (headings, for the most part) stay: taking them out
    would change the text.

    Raises:
        UserError: a split is empty.
    """
    written = [*notes]
    train = _filled(train, written)
    if evaluation is None:
        _check(train, "train")
        train, evaluation = _cut_end(train, max(1, round(EVALUATION_SHARE * len(train.texts))), CUT_NAME, written)
    if validation is None:
        _check(train, "train")
        size = _validation_size(dataset, len(train.texts))
        train, validation = _cut_end(train, size, "validation (cut from train)", written)
    else:
        validation = _running(
            _filled(validation, written), dataset.validation_size, dataset, "validation_size", written
        )
    train = _running(train, dataset.train_size, dataset, "train_size", written)
    evaluation = _running(_filled(evaluation, written), dataset.eval_size, dataset, "eval_size", written)
    three = [splits.in_source_order(split) for split in (train, validation, evaluation)]
    for split in three:
        _check(split, split.name)
    return TextData(three[0], three[1], three[2], (), splits.fingerprint(*three), tuple(written))


def _cut_validation(dataset: Dataset, train: Split, notes: list[str]) -> tuple[Split, Split]:
    """(what is left of train, validation); the note says how it was cut."""
    _check(train, "train")
    size = _validation_size(dataset, len(train.texts))
    rest, part = _cut(dataset, train, size, "validation (cut from train)")
    notes.append(f"validation: {len(part.texts):,} items cut out of train, none of whose texts is left in train")
    return rest, part


def _validation_size(dataset: Dataset, count: int) -> int:
    """How many of ``count`` items are cut off for selection.

    Raises:
        UserError: all of them would be.
    """
    size = dataset.validation_size or max(1, min(VALIDATION_MOST, round(VALIDATION_SHARE * count)))
    if size >= count:
        raise UserError(
            f"dataset.validation_size={size} leaves nothing of the {count} items to train on: write a smaller one"
        )
    return size


def _cut_end(train: Split, size: int, name: str, notes: list[str]) -> tuple[Split, Split]:
    """`splits.cut_end`, with a note of what is on both sides."""
    rest, part = splits.cut_end(train, size, name)
    _, shared = splits.without_overlap(part, rest)
    notes.append(
        f"{name}: the last {size:,} of {len(train.texts):,} items"
        + (f"; {shared:,} of them are also before" if shared else "")
    )
    return rest, part


def _cut(dataset: Dataset, train: Split, size: int, name: str) -> tuple[Split, Split]:
    """`splits.cut`, of which something must come."""
    rest, part = splits.cut(train, size, dataset.split_seed, name)
    if not part.texts:
        raise UserError(
            f"{name}: nothing can be cut, for each of the {len(train.texts):,} texts of train is there more than once "
            "and would be on both sides; leave repeated rows out, or write a file of its own for that split"
        )
    return rest, part


def _disjoint(split: Split, other: Split, notes: list[str], *, spare: Split) -> Split:
    """``split`` without the texts of ``other``; a note says how many went.

    Args:
        spare: the one of the two that the data set need not have.
    Raises:
        UserError: all went.
    """
    kept, dropped = splits.without_overlap(split, other)
    if dropped and not len(kept.texts):
        raise UserError(
            f"nothing is left of {split.name} that is not also in {other.name}: give {split.name} texts of its own, or "
            f"leave {spare.name} out"
        )
    if dropped:
        notes.append(f"{split.name}: {dropped:,} items left out because their text is also in {other.name}")
    return kept


def _filled(split: Split, notes: list[str]) -> Split:
    """``split`` without blank items."""
    kept = splits.take(split, (i for i, text in enumerate(split.texts) if text.strip()))
    if blank := len(split.texts) - len(kept.texts):
        notes.append(f"{split.name}: {blank:,} blank line{'s' * (blank > 1)} left out")
    return kept


def _sized(split: Split, size: int | None, dataset: Dataset, option: str, notes: list[str]) -> Split:
    """A stratified sample of ``split``; a note if it is not all of it, or if more was asked for."""
    _note_size(split, size, option, notes, "a stratified sample of")
    return splits.sample(split, size, dataset.split_seed)


def _running(split: Split, size: int | None, dataset: Dataset, option: str, notes: list[str]) -> Split:
    """Neighbouring items of ``split``, with the same notes as `_sized`."""
    _note_size(split, size, option, notes, "neighbouring items, out of")
    return splits.run_of(split, size, dataset.split_seed)


def _note_size(split: Split, size: int | None, option: str, notes: list[str], how: str) -> None:
    count = len(split.texts)
    if size is not None and size > count:
        notes.append(f"{split.name}: dataset.{option}={size} is more than there is; all {count:,} items are used")
    elif size is not None and size < count:
        notes.append(f"{split.name}: {size:,} items, {how} {count:,}")


def _note_classes(split: Split, label_names: Sequence[str], notes: list[str], so: str) -> None:
    """Say which classes cannot be learned, or not be got wrong, because no item has them."""
    there = set(split.labels or ())
    lacking = [name for index, name in enumerate(label_names) if index not in there]
    if lacking:
        few = f"{len(lacking)} of {len(label_names)} classes ({first_of(lacking)})"
        notes.append(f"{split.name}: no item of {few}, so {so}")


def _check(split: Split, name: str, least_classes: int = 1) -> None:
    if not len(split.texts):
        raise UserError(f"the {name} split is empty: give the data set more items, or write smaller sizes")
    if split.labels is not None and len(set(split.labels)) < least_classes:
        raise UserError(
            f"the {name} split has one class only (of {len(split.texts):,} items): "
            "check dataset.label_column, shuffle the file, or write a larger dataset.train_size"
        )
