"""The fork server: one that is dying, one that is gone, and what is said of one that cannot be started."""

from __future__ import annotations

import pytest

from peftbench.errors import UserError
from peftbench.sweep import server


@pytest.mark.parametrize("error", [ConnectionRefusedError, BrokenPipeError, EOFError])
def test_a_server_that_is_dying_is_given_the_time_to_end(monkeypatch: pytest.MonkeyPatch, error: type[Exception]):
    """Killed, it refuses connections at once, and is only replaced when it has ended: here after two seconds."""
    clock = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    def ask() -> str:
        if clock < 2:
            raise error
        return "started"

    monkeypatch.setattr(server.time, "sleep", sleep)
    assert server.insist(ask) == "started"
    assert clock < 5


def test_a_server_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server.time, "sleep", lambda seconds: None)
    tries = []

    def ask() -> None:
        tries.append(1)
        raise ConnectionRefusedError

    with pytest.raises(UserError, match=r"no process can be started \(ConnectionRefusedError\): raise the limits"):
        server.insist(ask)
    assert len(tries) == len(server.PAUSES) + 1


def test_what_keeps_a_process_from_being_started_is_said():
    """With the first run or with any later one."""

    def ask() -> None:
        raise OSError(24, "Too many open files")

    with pytest.raises(UserError, match=r"Too many open files\): raise the limits of this shell"):
        server.insist(ask)
