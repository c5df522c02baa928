"""Errors meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message says what is wrong and what to write instead."""


class Pruned(Exception):
    """A search has seen enough of this run; the message is the reason kept in the record."""


class Skip(Exception):
    """This combination cannot be run here; the message is the reason kept in the record."""
