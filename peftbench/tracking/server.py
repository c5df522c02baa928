"""What is known of the Weights & Biases server, as far as may be without talking to its API."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from typing import Any

PROBE_SECONDS = 1.5
TAGS = "WANDB_TAGS"
LONGEST_TAG = 64
MODE = "WANDB_MODE"
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
"""What W&B knows; the last two are its older names of offline and online."""


def tags_in(text: str) -> tuple[str, ...]:
    """The tags of a list as ``WANDB_TAGS`` has it, as W&B takes them.

    >>> tags_in("night, a100,,")
    ('night', 'a100')
    """
    return tuple(tag.strip()[:LONGEST_TAG] for tag in text.split(",") if tag.strip())


def refuse_mode() -> None:
    """Look at ``WANDB_MODE``: with one that it does not know, W&B would write nothing that could be delivered later.

    Raises:
        ValueError: it is none of `MODES`.
    """
    if (mode := os.environ.get(MODE)) and mode not in MODES:
        raise ValueError(f"{MODE}={mode} is no mode of W&B: write {MODE}=online, offline or disabled, or leave it out")


def quiet_setup() -> None:
    """Load W&B's settings and start its service, without a word on the terminal.

    Its error telemetry is off unless the user turned it on: a server that hangs would hold the process at its exit.
    """
    # A second try writes over the first. W&B has no argument against the variable: "never" refuses the second try.
    os.environ.pop("WANDB_RESUME", None)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # For a tag that is empty or too long, or no mode, W&B would take none of its settings, and track nothing.
    if tags := tags_in(os.environ.pop(TAGS, "")):
        os.environ[TAGS] = ",".join(tags)
    if os.environ.get(MODE) == "":
        del os.environ[MODE]
    import wandb

    wandb.setup(wandb.Settings(silent=True, quiet=True))


def authenticated() -> bool:
    """Whether a key (or identity token) is configured: environment, settings file or netrc. No network, no prompt.

    False as well where ``WANDB_MODE`` says offline or disabled.
    """
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # a malformed key, a broken netrc: as good as none
        return False


def default_entity(api: Any) -> str:
    """Whose runs are meant where nothing else says so: ``WANDB_ENTITY`` or W&B's settings file, else the user's own.

    New runs go there; ``default_entity`` of W&B's own API is what the server knows of the user alone.
    """
    return api.settings["entity"] or api.default_entity or ""


def reachable(url: str) -> bool:
    """Whether W&B at ``url`` answers a query within `PROBE_SECONDS`; every status but 5xx is an answer.

    A query, since a server can be up and unable to serve any; without the key, since only runs are to send it.
    """
    answers: list[bool] = []
    # In a thread, because looking up a name has no timeout of its own.
    probe = threading.Thread(target=lambda: answers.append(_answers(url)), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return answers == [True]


def _answers(url: str) -> bool:
    query = b'{"query": "query Probe { viewer { id } }"}'
    try:
        asked = urllib.request.Request(f"{url.rstrip('/')}/graphql", query, {"Content-Type": "application/json"})
        urllib.request.urlopen(asked, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False
    return True
