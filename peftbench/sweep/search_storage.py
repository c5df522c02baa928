"""Where the study of a search is kept: in a journal beside the records or in a database; and what is said of damage."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import UserError
from peftbench.record import STATUSES

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from peftbench.sweep.search_options import SearchOptions

JOURNAL = "study.journal"
SQLITE = "sqlite:///"
STALE = "stale"
"""Attribute of a trial that a kill cut short."""
OPTUNA = f"{os.sep}optuna{os.sep}storages{os.sep}"
"""In the path of all code of Optuna's that reads and writes a study."""


def is_there(options: SearchOptions, folder: Path) -> bool:
    """Whether there is a file to look into: to open a database that is a file makes one."""
    if options.storage is None:
        return (folder / JOURNAL).exists()
    return not options.storage.startswith(SQLITE) or Path(options.storage.removeprefix(SQLITE)).exists()


def storage(options: SearchOptions, folder: Path) -> BaseStorage:
    """The database that was asked for, or the journal in ``folder``."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if options.storage is not None:
        return RDBStorage(options.storage)
    # Absolute: Optuna waits for ever for a dangling link, and its lock is a link to this path.
    return JournalStorage(JournalFileBackend(str((folder / JOURNAL).absolute())))


def repair(folder: Path) -> None:
    """Drop what a kill can leave behind: the journal's own lock, and half a last line."""
    journal = folder / JOURNAL
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
            os.fsync(file.fileno())


@contextmanager
def telling_damage(options: SearchOptions, folder: Path) -> Iterator[None]:
    """What Optuna makes of a study that it cannot read or write, whenever it does, is said in one sentence.

    Raises:
        UserError: with the reason, and what to do.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        # A flipped bit raises nearly anything, so what is asked is not what was raised but where.
        if not any(OPTUNA in frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        raise _damage(options, folder, _reason(error)) from error


def check(study: Study, dimensions: Collection[str], options: SearchOptions, folder: Path) -> None:
    """Look for what a flipped bit can make of a trial although Optuna can read it.

    Raises:
        UserError: a trial is none that a search over ``dimensions`` has left.
    """
    refuse_added(study)
    for trial in study.get_trials(deepcopy=False):
        try:
            trial._validate()
            if trial.state.is_finished() and STALE not in trial.user_attrs:
                _check_finished(trial, dimensions)
        except Exception as error:
            raise _damage(options, folder, f"trial {trial.number}: {_reason(error)}") from error


def refuse_added(study: Study) -> None:
    """Look for trials that somebody has put into the study: there are no records of their runs.

    Raises:
        UserError: there is one.
    """
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and not {STALE, "status", "run_id"} & trial.user_attrs.keys():
            raise UserError(
                f"trial {trial.number} of the study {study.study_name} is not of this search (added from outside, it "
                "has no record): points are tried with study.enqueue_trial instead; to go on without it, move "
                f"{JOURNAL} elsewhere or name another database in hydra.sweeper.storage, and no point that finished "
                "is run again"
            )


def _check_finished(trial: FrozenTrial, dimensions: Collection[str]) -> None:
    if not trial.params and trial.user_attrs["status"] == "failed" and trial.user_attrs["run_id"] is None:
        return  # it was queued with others than there are
    if trial.params.keys() != set(dimensions):
        raise ValueError("other parameters")
    if trial.user_attrs["status"] not in STATUSES or not isinstance(trial.user_attrs["run_id"], str | None):
        raise ValueError("status or run_id")


def _damage(options: SearchOptions, folder: Path, reason: str) -> UserError:
    if options.storage is None:
        what = f"{folder / JOURNAL} is damaged ({reason}): remove it and repeat the command"
    else:
        # The URL may hold a password, so it is not repeated.
        reason = reason.replace(options.storage, "URL")
        what = (
            f"hydra.sweeper.storage: the database cannot be opened or used ({reason}): repeat the command, and if it "
            "is damaged, remove it or name another"
        )
    return UserError(f"{what}; no record is lost, and no point that finished is run again")


def _reason(error: Exception) -> str:
    """The first line of what was raised first: Optuna hides what the database said."""
    raised = error.__cause__ or error
    return ": ".join([type(raised).__name__, *str(raised).splitlines()[:1]])
