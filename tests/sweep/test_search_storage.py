"""Where a study is kept: a database that several searches share, and journals and databases that are damaged."""

from __future__ import annotations

import random
import sqlite3
from types import SimpleNamespace

import optuna
import pytest
from searching import SPACE

from peftbench.errors import UserError
from peftbench.record import read_sweep
from peftbench.sweep import search_study
from peftbench.sweep.search_study import FOLDER, IDENTITY, counted


def test_a_database_holds_the_study_on_request(start, runner, quick, tmp_path, capsys) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    start(*SPACE, "engine.dry_run=true", storage=url, n_trials=2)
    assert not (tmp_path / "studies.db").exists(), "a dry run leaves nothing"
    start(*SPACE, storage=url, n_trials=2)
    start(*SPACE, "engine.dry_run=true", storage=url, n_trials=3)
    assert "2 trials done already, 1 to run" in capsys.readouterr().out
    start(*SPACE, storage=url, n_trials=3)
    assert len(counted(optuna.load_study(study_name="s", storage=url))) == 3
    assert not (tmp_path / "s" / "study.journal").exists()
    with pytest.raises(UserError, match="cannot be opened"):
        start(*SPACE, storage="nosuch://place")


def study_at(url: str) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=url)


def test_a_study_in_a_database_belongs_to_one_folder(start, runner, quick, tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/two.db"
    first, second = tmp_path / "first", tmp_path / "second"
    refused = rf"study s in hydra\.sweeper\.storage is of the search in {first}/s: go on there, or write sweep=NAME"

    def begin_another(run) -> str:
        for more in ((), ("trainer.epochs=2",), ("engine.dry_run=true",)):
            with pytest.raises(UserError, match=refused) as said:
                start(*SPACE, *more, folder=second, storage=url, n_trials=3)
            assert "two.db" not in str(said.value)
        return "ok"

    runner.status = begin_another
    assert start(*SPACE, folder=first, storage=url, n_trials=3) == 0
    runner.status = lambda run: "ok"
    assert len(runner.calls) == len(list(read_sweep(first / "s"))) == len(study_at(url).trials) == 3
    (tmp_path / "link").symlink_to(first)
    assert start(*SPACE, folder=tmp_path / "link", storage=url, n_trials=4) == 0, "the same folder"
    with pytest.raises(UserError, match=refused):
        start(*SPACE, folder=second, storage=url, n_trials=4)


def test_a_study_that_has_no_trial_yet_is_not_taken_away(start, runner, quick, tmp_path, monkeypatch) -> None:
    url = f"sqlite:///{tmp_path}/two.db"
    said = []

    def before_the_first(study) -> None:
        monkeypatch.setattr(search_study, "requeue_stale", lambda study: None)
        with pytest.raises(UserError, match="is of the search in") as refused:
            start(*SPACE, "trainer.epochs=2", folder=tmp_path / "second", storage=url)
        said.append(refused)

    monkeypatch.setattr(search_study, "requeue_stale", before_the_first)
    assert start(*SPACE, folder=tmp_path / "first", storage=url, n_trials=2) == 0
    assert said
    assert len(counted(study_at(url))) == 2


def test_a_study_that_is_being_made_is_not_taken_away(start, runner, quick, tmp_path, monkeypatch) -> None:
    """Another search has made it, and signs it while this one waits."""
    url = f"sqlite:///{tmp_path}/two.db"
    study = optuna.create_study(study_name="s", storage=url)

    def sign(seconds: float) -> None:
        study.set_user_attr(IDENTITY, {FOLDER: "/elsewhere/s"})

    monkeypatch.setattr(search_study, "time", SimpleNamespace(sleep=sign))
    with pytest.raises(UserError, match="is of the search in /elsewhere/s: "):
        start(*SPACE, storage=url)
    assert study.user_attrs == {IDENTITY: {FOLDER: "/elsewhere/s"}}


def test_a_study_of_before_is_taken_on_and_signed(start, runner, quick, tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/two.db"
    start(*SPACE, storage=url, n_trials=2)
    study = study_at(url)
    unsigned = {key: value for key, value in study.user_attrs[IDENTITY].items() if key != FOLDER}
    study.set_user_attr(IDENTITY, unsigned)
    study.ask()
    for trials in ("3 trials", "3 trials"):
        with pytest.raises(UserError, match=f"{trials} of a search with another configuration"):
            start(*SPACE, "trainer.epochs=2", storage=url)
    assert start(*SPACE, storage=url, n_trials=3) == 0
    assert study_at(url).user_attrs[IDENTITY] == {**unsigned, FOLDER: str(tmp_path / "s")}
    assert len(runner.calls) == 3


def test_a_journal_moves_with_its_folder(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    (tmp_path / "moved").mkdir()
    (tmp_path / "s").rename(tmp_path / "moved" / "s")
    assert start(*SPACE, folder=tmp_path / "moved", n_trials=3) == 0
    assert len(runner.calls) == 3


def renamed(before: str, after: str):
    return lambda raw: raw.replace(before.encode(), after.encode(), 1)


JOURNALS = {
    "no JSON": lambda raw: b"not json\n" + raw,
    "no operation": renamed('"op_code"', '"op_cpde"'),
    "no text": lambda raw: raw.replace(b"validation", b"\xffalidation", 1),
    "no number": renamed('"trial_id":0', '"trial_id":"0"'),
    "no distribution": renamed("FloatDistribution", "FlgatDistribution"),
    "no value": renamed('"values":[0.', '"valuer":[0.'),
    "no status": renamed('"status"', '"statur"'),
    "no such status": renamed('"ok"', '"oj"'),
    "out of range": renamed('"param_value_internal":1', '"param_value_internal":7'),
}


@pytest.mark.parametrize("how", JOURNALS)
def test_a_damaged_journal_is_named_and_can_be_removed(start, runner, quick, tmp_path, how: str) -> None:
    start(*SPACE, n_trials=4)
    best = (tmp_path / "s" / "best.yaml").read_text()
    path = tmp_path / "s" / "study.journal"
    raw = path.read_bytes()
    path.write_bytes(JOURNALS[how](raw))
    assert path.read_bytes() != raw
    for more in (("engine.dry_run=true",), ()):
        with pytest.raises(UserError, match=rf"^{path} is damaged \(.*\): remove it and repeat .* no record is lost"):
            start(*SPACE, *more, n_trials=4)
    path.unlink()
    assert start(*SPACE, n_trials=4) == 0
    assert len(runner.calls) == 4, "the records are found again"
    assert (tmp_path / "s" / "best.yaml").read_text() == best


def test_no_flipped_bit_of_a_journal_gives_a_traceback(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=4)
    path, chance = tmp_path / "s" / "study.journal", random.Random(0)
    raw, told = path.read_bytes(), 0
    for _ in range(40):
        damaged = bytearray(raw)
        damaged[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            start(*SPACE, n_trials=5)
        except UserError:
            told += 1
    assert 10 < told < 40


def overwrite(path) -> None:
    """As a disk does that loses some blocks: the head and the tables' definitions stay."""
    with sqlite3.connect(path) as database:
        (page,) = database.execute("select rootpage from sqlite_master where name = 'trials'").fetchone()
        (size,) = database.execute("pragma page_size").fetchone()
    database.close()
    with path.open("rb+") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * 4000)


DATABASE = r"^hydra\.sweeper\.storage: the database cannot be opened or used \(.*remove it or name another; no record"


def test_a_damaged_database_is_said_and_can_be_replaced(start, runner, quick, tmp_path) -> None:
    path = tmp_path / "studies.db"
    url = f"sqlite:///{path}"
    start(*SPACE, storage=url, n_trials=4)
    params = [trial.params for trial in study_at(url).trials]
    overwrite(path)
    for more in (("engine.dry_run=true",), ()):
        with pytest.raises(UserError, match=DATABASE) as said:
            start(*SPACE, *more, storage=url, n_trials=5)
        assert "studies.db" not in str(said.value)
    url = f"sqlite:///{tmp_path}/another.db"
    assert start(*SPACE, storage=url, n_trials=4) == 0
    assert len(runner.calls) == 4, "the records are found again"
    assert [trial.params for trial in study_at(url).trials] == params


def test_a_database_that_is_damaged_in_the_midst_is_said(start, runner, quick, tmp_path) -> None:
    path = tmp_path / "studies.db"

    def damage(run) -> str:
        if len(runner.calls) == 2:
            overwrite(path)
        return "ok"

    runner.status = damage
    with pytest.raises(UserError, match=DATABASE):
        start(*SPACE, storage=f"sqlite:///{path}", n_trials=5)
    assert len(runner.calls) == len(list(read_sweep(tmp_path / "s"))) == 2


def test_an_error_that_is_none_of_the_study_is_not_said_to_be_one(start, runner, quick) -> None:
    def wrong(run) -> str:
        raise KeyError("ours")

    runner.status = wrong
    with pytest.raises(KeyError, match="ours"):
        start(*SPACE)
