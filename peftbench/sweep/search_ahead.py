"""How far a search has come, and what is ahead of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from peftbench.record import FINE
from peftbench.sweep.grid import Point
from peftbench.sweep.progress import clock
from peftbench.sweep.search_options import SearchOptions
from peftbench.sweep.search_study import counted, seen

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def preview(settings: SearchOptions, point: Point, identity: Mapping[str, Any]) -> str:
    """What a dry run says: what is done already, what is to be done, and how long that takes.

    Args:
        point: any of the search's.

    Raises:
        UserError: the trials there are of another search.
    """
    study = seen(settings, point.folder.parent, point.run.sweep, identity)
    done = [] if study is None else counted(study)
    todo = max(0, settings.n_trials - len(done))
    ok = [trial for trial in done if trial.user_attrs["status"] == "ok"]
    spans = [trial.duration.total_seconds() for trial in ok if trial.duration]
    took = [seconds for seconds in spans if seconds > 0]  # not where the clock was put back meanwhile
    rest = f"\nabout {clock(mean(took) * todo)} one after another" if took and todo else ""
    return standing(done, todo) + rest


def standing(done: Sequence[FrozenTrial], todo: int) -> str:
    """One line: trials that are done, how many of them failed, and how many are to be run."""
    failed = sum(trial.user_attrs.get("status") not in FINE for trial in done)
    again = f" ({failed} of them failed, and a search tries none again: raise n_trials)" if failed else ""
    return f"{len(done)} trials done already{again}, {todo} to run"
