"""The token cache: hit by the same content only, and never trusted when damaged."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from peftbench.data.base import Split
from peftbench.files import new_mode
from peftbench.tasks.cache import Ragged, _read, _write, tokenizer_identity
from peftbench.tasks.classification import SequenceClassification

TASK = SequenceClassification(("no", "yes"), 8, 0)
SPLIT = Split("train", ["w1 w2 w3", "w4", "w5 " * 20], [0, 1, 0], [7, 3, 5])


@pytest.fixture
def calls(monkeypatch):
    """How many texts each tokenizer call was given."""
    from transformers import PreTrainedTokenizerFast

    seen: list[int] = []
    true_call = PreTrainedTokenizerFast.__call__

    def counted(self, text, *args, **kwargs):
        seen.append(len(text))
        return true_call(self, text, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    return seen


def same(one, other) -> bool:
    names = ("tokens", "offsets", "labels", "ids")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_a_split_is_tokenized_in_one_call_and_once(cache_folder, tokenizer, calls):
    first = TASK.encode(SPLIT, tokenizer, train=True)
    assert calls == [3]
    again = TASK.encode(SPLIT, tokenizer, train=True)
    assert calls == [3]
    assert (first.from_cache, again.from_cache) == (False, True)
    assert same(first, again)
    assert first.truncated == again.truncated == 1
    assert [path.suffix for path in cache_folder.iterdir()] == [".npz"]
    assert (first.tokens.dtype, first.offsets.dtype, first.ids.dtype) == (np.int32, np.int64, np.int64)


def test_a_cache_that_several_use_is_for_whom_the_umask_says(cache_folder, tokenizer):
    TASK.encode(SPLIT, tokenizer, train=True)
    assert {path.stat().st_mode & 0o777 for path in cache_folder.iterdir()} == {new_mode()}


def test_a_tokenizer_used_otherwise_before_hits(cache_folder, calls, word_tokenizer):
    TASK.encode(SPLIT, word_tokenizer(), train=True)
    used = word_tokenizer()
    used(["w1 w2"], truncation=True, max_length=3, padding="max_length")
    calls.clear()
    assert TASK.encode(SPLIT, used, train=True).from_cache
    assert calls == []


def test_labels_and_ids_are_the_splits_own(cache_folder, tokenizer):
    TASK.encode(SPLIT, tokenizer, train=True)
    found = TASK.encode(Split("dev", SPLIT.texts, [1, 1, 1], [0, 1, 2]), tokenizer, train=False)
    assert found.from_cache
    assert (found.labels.tolist(), found.ids.tolist()) == ([1, 1, 1], [0, 1, 2])


@pytest.mark.parametrize("change", ["text", "length", "tokenizer", "vocabulary"])
def test_other_content_is_tokenized_again(cache_folder, tokenizer, word_tokenizer, change):
    TASK.encode(SPLIT, tokenizer, train=True)
    task, split = TASK, SPLIT
    if change == "text":
        split = Split("train", ["w1 w2", "w3 w4", SPLIT.texts[2]], [0, 1, 0], [7, 3, 5])
    elif change == "length":
        task = SequenceClassification(("no", "yes"), 9, 0)
    elif change == "tokenizer":
        tokenizer = word_tokenizer(ends=False)
    else:
        tokenizer.add_tokens(["w99"])
    assert not task.encode(split, tokenizer, train=True).from_cache


def test_identity_does_not_change_by_use(tokenizer, word_tokenizer):
    before = tokenizer_identity(tokenizer)
    tokenizer(["w1"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_identity(tokenizer) == before
    assert tokenizer_identity(word_tokenizer(ends=False)) != before


def damage(path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "flipped":
        at = raw.find(b"NUMPY") + 130
        raw[at] ^= 0xFF
        path.write_bytes(raw)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "lies":
        np.savez(path, tokens=np.arange(5, dtype=np.int32), offsets=np.array([0, 9]), truncated=np.int64(0))
    elif how == "short":
        np.savez(path, tokens=np.arange(5, dtype=np.int32), offsets=np.array([0, 5]), truncated=np.int64(0))
    elif how == "scrambled":
        offsets = np.array([0, 9, 2, 5])
        np.savez(path, tokens=np.arange(5, dtype=np.int32), offsets=offsets, truncated=np.int64(0))
    else:
        np.savez(path, tokens=np.array([{}], dtype=object))


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "lies", "short", "scrambled", "pickle"])
def test_a_damaged_file_is_made_anew(cache_folder, tokenizer, calls, caplog, how):
    first = TASK.encode(SPLIT, tokenizer, train=True)
    (path,) = cache_folder.iterdir()
    damage(path, how)
    with caplog.at_level(logging.INFO):
        again = TASK.encode(SPLIT, tokenizer, train=True)
    assert not again.from_cache
    assert same(first, again)
    assert "tokenizing again" in caplog.text
    assert TASK.encode(SPLIT, tokenizer, train=True).from_cache


def heads(raw: bytes) -> list[int]:
    """The bytes that say what the others are: all but the arrays themselves."""
    starts = [at for at in range(len(raw)) if raw.startswith(b"PK", at)]
    return sorted({at for start in starts for at in range(start, min(start + 190, len(raw)))})


@pytest.mark.parametrize(("items", "bits"), [(3, range(8)), (700, (1, 4))])
def test_no_flipped_bit_changes_a_token_or_fails_a_run(tmp_path, items, bits):
    """The second file is longer than what is read at once, so that nobody is bound to see a CRC at its end."""
    lists = [list(range(at, at + 9)) for at in range(items)]
    written = Ragged.of(lists, 1, [[0] * 4 + [1] * 5] * items)
    path = tmp_path / "tokens.npz"
    _write(path, written)
    raw, found = bytearray(path.read_bytes()), []
    for at in range(len(raw)) if items == 3 else heads(bytes(raw)):
        for bit in bits:
            raw[at] ^= 1 << bit
            path.write_bytes(raw)
            raw[at] ^= 1 << bit
            found.append(_read(path, items))
    read = [one for one in found if one is not None]
    assert 0 < len(read) < len(found)
    assert all(np.array_equal(a, b) for one in read for a, b in zip(one, written, strict=True))


def test_a_folder_that_cannot_be_written_costs_no_run(monkeypatch, tmp_path, tokenizer, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "file"))
    assert len(TASK.encode(SPLIT, tokenizer, train=True)) == 3
    assert "cannot be written" in caplog.text


def test_ragged_of_lists():
    ragged = Ragged.of([[1, 2], [], [3]])
    assert (ragged.tokens.tolist(), ragged.offsets.tolist()) == ([1, 2, 3], [0, 2, 2, 3])
