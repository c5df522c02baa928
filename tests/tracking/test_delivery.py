"""A run that died too early for its W&B folder is written anew from its record."""

import time
from pathlib import Path

from peftbench.tracking import delivery, sync
from peftbench.tracking.wandb import tracked_id
from tracking.child import CURVE, make_record

EMPTY = b":W&B\xbe\xe1\x00"


def dead(output: Path, at: str, kept: bytes = EMPTY) -> Path:
    """The W&B folder that a run leaves which is killed as it begins, called as the run that is written anew is."""
    record = make_record("one", "killed", "timeout")
    record.history = CURVE[:1]
    record.write(output / "demo" / "one")
    name = tracked_id(delivery.facts_of(record))
    folder = output / "demo" / "one" / "wandb" / f"offline-run-{at}-{name}"
    folder.mkdir(parents=True)
    (folder / f"run-{name}.wandb").write_bytes(kept)
    return folder


def test_a_folder_that_holds_something_is_delivered_as_it_is(tmp_path: Path):
    folder = dead(tmp_path, "20260101_000000", EMPTY + b"x")
    assert delivery.replay(folder) == folder


def test_an_empty_one_of_this_very_second_is_written_anew_under_the_same_id(tmp_path: Path):
    delivery.replay(dead(tmp_path / "first", "20260101_000000"))
    time.sleep(1.1 - time.time() % 1)  # W&B is loaded and at work by now, and writes within the second
    folder = dead(tmp_path / "second", time.strftime(delivery.SECOND))
    instead = delivery.replay(folder)
    assert instead.parent == folder.parent
    assert instead.name > folder.name
    assert delivery.identity_of(instead) == delivery.identity_of(folder)
    (written,) = instead.glob("*.wandb")
    assert written.stat().st_size > delivery.EMPTY_BYTES


def test_what_is_written_anew_is_the_last_try_also_where_time_went_backwards(tmp_path: Path):
    folder = dead(tmp_path, "20990101_000000")
    instead = delivery.replay(folder)
    assert instead.name < folder.name
    assert sync.tracked(tmp_path) == [instead]
