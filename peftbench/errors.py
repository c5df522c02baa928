"""What is meant for the person at the keyboard: errors, and names in a sentence."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: the message says what is wrong and what to write instead."""


class Pruned(Exception):
    """A search has seen enough of this run; the message is the reason kept in the record."""


class Skip(Exception):
    """This combination cannot be run here; the message is the reason kept in the record."""


def first_of(names: Sequence[str]) -> str:
    """The first four of ``names``, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
