"""The Optuna study beside a sweep: opened by one search at a time, repaired after a kill, resumed to the total."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UserError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from peftbench.sweep.search_options import SearchOptions

JOURNAL = "study.journal"
LOCK = "search.lock"
SQLITE = "sqlite:///"
IDENTITY = "search"
STALE = "stale"


@contextmanager
def opened(options: SearchOptions, folder: Path, name: str, identity: Mapping[str, Any]) -> Iterator[Study]:
    """The study of this search, its unfinished trials queued again.

    Raises:
        UserError: another search is at work in ``folder``, the storage cannot be opened, or its trials were made by
            another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        _repair(folder / JOURNAL)
        with _readable(folder):
            study = _bind(_storage(options, folder), options, name, dict(identity))
            requeue_stale(study)
        yield study


def seen(options: SearchOptions, folder: Path, name: str, identity: Mapping[str, Any]) -> Study | None:
    """The study as it is, for a look at it: nothing is made or mended. None where there is none yet.

    Raises:
        UserError: the storage cannot be opened, or its trials were made by another search.
    """
    import optuna

    if not _is_there(options, folder):
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _readable(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            study = optuna.load_study(study_name=name, storage=_storage(options, folder))
        except KeyError:
            return None
    _refuse_other(study, identity)
    return study


def counted(study: Study) -> list[FrozenTrial]:
    """Trials that count for ``n_trials``: finished ones, also failed ones, but not those that a kill cut short."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and STALE not in t.user_attrs]


def requeue_stale(study: Study) -> None:
    """Mark as failed what was running when the search was killed, and queue the same parameters again.

    A run that had left its record by then is not run again: its trial finds the record.
    """
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        study._storage.set_trial_user_attr(trial._trial_id, STALE, True)
        # Queued before it is marked: killed in between, the next start sees both and queues it once.
        if trial.params and not _queued(study, trial.params):
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def _queued(study: Study, params: Mapping[str, Any]) -> bool:
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return any(trial.system_attrs.get("fixed_params") == params for trial in waiting)


def sampler(options: SearchOptions, index: int) -> BaseSampler:
    """The sampler of the ``index``-th counted trial.

    Each trial has a generator of its own: a search that was interrupted samples what it would have sampled.

    Raises:
        UserError: the sampler needs a package that is not installed.
    """
    import numpy as np
    from optuna import samplers

    seed = int(np.random.SeedSequence([options.seed, index]).generate_state(1)[0])
    match options.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed)
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        case "nsga3":
            return samplers.NSGAIIISampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
        case "qmc":
            # One sequence for the whole search; how far it has come is kept in the study.
            return samplers.QMCSampler(seed=options.seed, scramble=True, warn_independent_sampling=False)
    try:
        import cmaes  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        raise UserError("sampler=cmaes: pip install cmaes, or write sampler=tpe") from None
    return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def pruner(options: SearchOptions, validations: int) -> BasePruner:
    """The pruner that was asked for; its steps are validations, counted from 1.

    Args:
        validations: how many a run has that is not pruned.
    """
    from optuna import pruners

    match options.pruner:
        case "none":
            return pruners.NopPruner()  # None would be the median one
        case "median":
            return pruners.MedianPruner()
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=validations)
    return pruners.SuccessiveHalvingPruner(min_resource=1)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One search a folder. The kernel drops the lock with the process, however it ends."""
    import fcntl

    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another search is at work in {folder}: wait for it, or write sweep=NAME") from None
        yield


def _is_there(options: SearchOptions, folder: Path) -> bool:
    """Whether there is a file to look into: to open a database that is a file makes one."""
    if options.storage is None:
        return (folder / JOURNAL).exists()
    return not options.storage.startswith(SQLITE) or Path(options.storage.removeprefix(SQLITE)).exists()


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Say which file is wrong where Optuna finds a line that is none of its own."""
    try:
        yield
    except json.JSONDecodeError as error:
        path = folder / JOURNAL
        raise UserError(f"{path} is damaged ({error}): take the wrong lines out, or remove it") from error


def _storage(options: SearchOptions, folder: Path) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if options.storage is None:
        # Absolute: Optuna waits for ever for a dangling link, and its lock is a link to this path.
        path = (folder / JOURNAL).absolute()
        return JournalStorage(JournalFileBackend(str(path)))
    try:
        return RDBStorage(options.storage)
    except Exception as error:
        # The URL may hold a password, so it is not repeated.
        reason = str(error).splitlines()[0]
        raise UserError(f"hydra.sweeper.storage: the database cannot be opened ({reason})") from error


def _repair(journal: Path) -> None:
    """Drop what a kill can leave behind: the journal's own lock, and half a last line."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def _bind(storage: BaseStorage, options: SearchOptions, name: str, identity: dict[str, Any]) -> Study:
    """The study called ``name``, if it is of this search or has nothing to lose."""
    import optuna

    directions = [objective.direction for objective in options.objectives]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    _refuse_other(study, identity)
    if study.user_attrs.get(IDENTITY) == _plain(identity):
        return study
    optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    study.set_user_attr(IDENTITY, identity)
    return study


def _refuse_other(study: Study, identity: Mapping[str, Any]) -> None:
    before, now = study.user_attrs.get(IDENTITY) or {}, _plain(identity)
    if before != now and (trials := counted(study)):
        changed = " and ".join(key for key in {**now, **before} if before.get(key) != now.get(key))
        raise UserError(
            f"the study {study.study_name} has {len(trials)} trials of a search with another {changed}: "
            "write sweep=NAME for a new one"
        )


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(identity)))
    return plain
