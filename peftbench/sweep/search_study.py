"""The Optuna study beside a sweep: opened by one search at a time, repaired after a kill, resumed to the total."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UserError
from peftbench.sweep.search_storage import STALE, check, is_there, repair, storage, telling_damage

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

    from peftbench.sweep.search_options import SearchOptions
    from peftbench.sweep.search_space import Space

LOCK = "search.lock"
IDENTITY = "search"
FOLDER = "folder"
"""In the identity of a study that is in a database: whose it is. A journal lies in its folder, and moves with it."""
QUEUED = "fixed_params"
"""Optuna's attribute of a trial that was queued: its parameters, which may be some of them, or wrong ones."""
SIGNING = 2.0
"""Seconds after which a search that has made a study has surely written its identity into it."""


@contextmanager
def opened(options: SearchOptions, folder: Path, name: str, identity: Mapping[str, Any]) -> Iterator[Study]:
    """The study of this search, its unfinished trials queued again.

    Raises:
        UserError: another search is at work in ``folder``, the study cannot be read or written, also later on, or it is
            another search's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder), telling_damage(options, folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        repair(folder)
        study = _bind(options, folder, name, _identity(options, folder, identity))
        check(study, _names(identity), options, folder)
        requeue_stale(study)
        yield study


def seen(options: SearchOptions, folder: Path, name: str, identity: Mapping[str, Any]) -> Study | None:
    """The study as it is, for a look at it: nothing is made or mended. None where there is none yet.

    Raises:
        UserError: the study cannot be read, or it is another search's.
    """
    import optuna

    if not is_there(options, folder):
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with telling_damage(options, folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        held = storage(options, folder)
        if name not in optuna.get_all_study_names(held):
            return None
        study = optuna.load_study(study_name=name, storage=held)
        _refuse_other(study, _identity(options, folder, identity))
        check(study, _names(identity), options, folder)
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
        # What was queued for it and not taken yet is not to be sampled instead.
        params = {**trial.system_attrs.get(QUEUED, {}), **trial.params}
        # Queued before it is marked: killed in between, the next start sees both and queues it once.
        if params and not _queued(study, params):
            study.enqueue_trial(params)
        study.tell(trial.number, state=TrialState.FAIL)


def _queued(study: Study, params: Mapping[str, Any]) -> bool:
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return any(trial.system_attrs.get(QUEUED) == params for trial in waiting)


def ask(study: Study, space: Space) -> tuple[Trial, str | None]:
    """Begin a trial: the first that is queued, else one whose parameters are sampled.

    Returns:
        The trial, and what of the parameters that it was queued with is not of ``space``: such a trial gets none.
    """
    trial = study.ask()
    misfit = space.misfit(study._storage.get_trial(trial._trial_id).system_attrs.get(QUEUED, {}))
    if misfit is None:
        # As `Study.ask` does it, which takes a value that is out of range, and raises after it has begun the trial.
        for key, distribution in space.distributions().items():
            trial._suggest(key, distribution)
    return trial, misfit


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


def _bind(options: SearchOptions, folder: Path, name: str, identity: dict[str, Any]) -> Study:
    """The study called ``name``, if it is of this search or has nothing to lose."""
    import optuna

    held = storage(options, folder)
    directions = [objective.direction for objective in options.objectives]
    try:
        # Of two searches that begin at once, one makes it.
        study = optuna.create_study(storage=held, study_name=name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=held, study_name=name)
        if options.storage is not None and IDENTITY not in study.user_attrs:
            time.sleep(SIGNING)  # it may be of a search that begins right now
        if _refuse_other(study, identity):
            optuna.delete_study(study_name=name, storage=held)
            study = optuna.create_study(storage=held, study_name=name, directions=directions)
    if study.user_attrs.get(IDENTITY) != identity:
        study.set_user_attr(IDENTITY, identity)
    return study


def _refuse_other(study: Study, identity: Mapping[str, Any]) -> list[str]:
    """What of the identity is another one, if there is nothing to lose."""
    before = study.user_attrs.get(IDENTITY)
    before = before if isinstance(before, dict) else {}
    home, here = before.get(FOLDER), identity.get(FOLDER)
    if home is not None and home != here:
        # Also without trials: the search there may be about to begin its first one.
        raise UserError(
            f"the study {study.study_name} in hydra.sweeper.storage is of the search in {home}: go on there, or write "
            "sweep=NAME for a new one (if that folder was moved: name another database, and no record is lost)"
        )
    changed = [key for key in {**identity, **before} if key != FOLDER and before.get(key) != identity.get(key)]
    # Trials of this folder that are not finished are of nobody, for this search has its lock; others are of somebody.
    trials = counted(study) if home == here else study.get_trials(deepcopy=False)
    if changed and trials:
        raise UserError(
            f"the study {study.study_name} has {len(trials)} trials of a search with another {' and '.join(changed)}: "
            "write sweep=NAME for a new one"
        )
    return changed


def _identity(options: SearchOptions, folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, with the folder where the study is elsewhere."""
    where = {} if options.storage is None else {FOLDER: str(folder.resolve())}
    plain: dict[str, Any] = json.loads(json.dumps({**identity, **where}))
    return plain


def _names(identity: Mapping[str, Any]) -> list[str]:
    return [dimension["key"] for dimension in identity["dimensions"]]
