"""Cuts and samples: nothing lost, nothing on two sides, classes in proportion, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data import splits

ITEMS = st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.integers(0, 2)), min_size=1, max_size=60)
QUICK = settings(max_examples=60, deadline=None)


def big(count: int = 300, share: float = 0.3) -> splits.Split:
    return splits.make("train", (f"text {i}" for i in range(count)), (int(i < share * count) for i in range(count)))


@QUICK
@given(ITEMS, st.integers(1, 30), st.integers(0, 5))
def test_a_cut_loses_nothing_and_shares_no_text(items, size, seed):
    # Spacing and case vary, so that "the same text" is more than equal strings.
    texts = [f" {text} " if i % 2 else text.upper() for i, (text, _) in enumerate(items)]
    whole = splits.make("train", texts, (label for _, label in items))
    rest, part = splits.cut(whole, size, seed, "validation")
    assert sorted([*rest.ids, *part.ids]) == list(range(len(items)))
    assert not {text.strip().lower() for text in rest.texts} & {text.strip().lower() for text in part.texts}
    for split in (rest, part):
        assert [(split.texts[i], split.labels[i]) for i in range(len(split.ids))] == [
            (texts[row], items[row][1]) for row in split.ids
        ]
    often = Counter(text for text, _ in items)
    assert len(part.ids) == min(size, sum(1 for count in often.values() if count == 1))


@QUICK
@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(0, 9))
def test_every_prefix_of_an_order_is_stratified(labels, seed):
    order = splits.stratified_order(labels, len(labels), seed, "test")
    assert sorted(order) == list(range(len(labels)))
    totals, seen = Counter(labels), Counter()
    for size, position in enumerate(order, start=1):
        seen[labels[position]] += 1
        for label, total in totals.items():
            assert abs(seen[label] - size * total / len(labels)) < 1 + len(totals)


def test_two_classes_are_within_two_items_of_their_share():
    part = splits.cut(big(), 100, 0, "validation")[1]
    assert abs(sum(part.labels) - 30) < 2


def test_the_seed_decides_and_nothing_else():
    first, again, other = (splits.sample(big(), 50, seed).ids for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert list(first) != sorted(first)


def test_a_smaller_sample_is_part_of_a_larger_one():
    small, large = splits.sample(big(), 20, 3), splits.sample(big(), 90, 3)
    assert large.ids[:20] == small.ids


def test_purposes_have_their_own_randomness():
    orders = [splits.stratified_order(None, 50, 0, purpose).tolist() for purpose in ("cut", "sample")]
    assert orders[0] != orders[1]


def test_overlap_is_removed_and_counted():
    train = splits.make("train", ["One film ", "two", "one  FILM", "three"], [0, 1, 0, 1])
    kept, dropped = splits.without_overlap(train, splits.make("test", ["one film"], [0]))
    assert (list(kept.ids), kept.labels, dropped) == ([1, 3], [1, 1], 2)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_a_run_is_in_one_piece(count, size, seed):
    ids = list(splits.run_of(splits.make("train", map(str, range(count))), size, seed).ids)
    assert len(ids) == min(size, count)
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_runs_start_elsewhere_with_another_seed():
    starts = {splits.run_of(splits.make("train", map(str, range(1000))), 5, seed).ids[0] for seed in range(8)}
    assert len(starts) > 4


BASE = splits.Split("train", ["ab", "c"], [0, 1], [0, 1])


@pytest.mark.parametrize(
    "other",
    [
        splits.Split("train", ["a", "bc"], [0, 1], [0, 1]),
        splits.Split("train", ["ab", "c"], [1, 0], [0, 1]),
        splits.Split("train", ["ab", "c"], [0, 1], [1, 0]),
        splits.Split("train", ["ab", "c"], None, [0, 1]),
        splits.Split("train", ["c", "ab"], [0, 1], [0, 1]),
    ],
)
def test_a_fingerprint_sees_texts_labels_ids_and_their_order(other):
    assert splits.fingerprint(other) != splits.fingerprint(BASE)
    assert splits.fingerprint(BASE, other) != splits.fingerprint(other, BASE)


def test_a_fingerprint_is_of_the_contents():
    assert splits.fingerprint(BASE) == splits.fingerprint(
        splits.Split("called otherwise", ("ab", "c"), (0, 1), range(2))
    )
