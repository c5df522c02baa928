"""The part of a sweep folder that one command is about."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from peftbench.report.baseline import Untestable, choose
from peftbench.report.sweep import Section, Setting, Sweep, section


def part(sweep: Sweep, run_ids: Collection[str], baseline: str) -> Sweep:
    """The settings of these runs, each with all its seeds in the folder, and what they are compared with.

    A method that is added to a sweep stands beside the baseline that an earlier command has run.
    """
    ids = set(run_ids)
    records = tuple(record for record in sweep.records if record.run_id in ids)
    sections = tuple(filter(None, (_part(one, ids, baseline) for one in sweep.sections)))
    return replace(sweep, records=records, sections=sections, unreadable=())


def _part(whole: Section, ids: Collection[str], baseline: str) -> Section | None:
    """What is left of a section, in its order; None if none of these runs is in it."""
    named = [setting for setting in whole.settings if any(run.run_id in ids for run in setting.runs)]
    if not named:
        return None
    kept = {id(setting) for setting in named} | {id(other) for other in _baselines(whole, named, baseline)}
    return section(whole.key, tuple(setting for setting in whole.settings if id(setting) in kept))


def _baselines(whole: Section, settings: Collection[Setting], baseline: str) -> list[Setting]:
    found = []
    for setting in settings:
        with suppress(Untestable):
            found.append(choose(whole, setting, baseline))
    return found
