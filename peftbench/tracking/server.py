"""What is known of the Weights & Biases server, as far as may be without talking to its API."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from typing import Any

from peftbench.errors import UserError
from peftbench.files import cache_folder

PROBE_SECONDS = 1.5
TAGS = "WANDB_TAGS"
LONGEST_TAG = 64
MODE, BASE_URL, KEY = "WANDB_MODE", "WANDB_BASE_URL", "WANDB_API_KEY"
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
"""What W&B knows; the last two are its older names of offline and online."""


def tags_in(text: str) -> tuple[str, ...]:
    """The tags of a list as ``WANDB_TAGS`` has it, as W&B takes them.

    >>> tags_in("night, a100,,")
    ('night', 'a100')
    """
    return tuple(tag.strip()[:LONGEST_TAG] for tag in text.split(",") if tag.strip())


FORBIDDEN = "\\#?%:"
"""What W&B takes in no name of a project, beside the slash."""
OVERRIDDEN = tuple(f"WANDB_{name}" for name in ("SILENT", "QUIET", "CONSOLE", "INIT_TIMEOUT", "CONFIG_PATHS"))
"""What runs set themselves, and configuration of other sources than the run's."""
AGENTS = ("WANDB_SWEEP_ID", "WANDB_RUN_ID")
"""By these an agent of a W&B sweep says which run a command is; the second alone is none of its."""


def refuse_variables() -> None:
    """Look at variables with which W&B would write nothing that could be delivered later.

    Raises:
        ValueError: ``WANDB_MODE`` is none of `MODES`, or ``WANDB_BASE_URL`` is no URL.
    """
    if (mode := os.environ.get(MODE)) and mode not in MODES:
        raise ValueError(f"{MODE}={mode} is no mode of W&B: write {MODE}=online, offline or disabled, or leave it out")
    if (url := os.environ.get(BASE_URL)) and not url.startswith(("http://", "https://")):
        raise ValueError(f"{BASE_URL}={url} is no URL: write {BASE_URL}=https://{url.rpartition('//')[2]}")


def refuse_project(name: str) -> None:
    """Look at the name of a project.

    Raises:
        ValueError: W&B takes none that is called so.
    """
    entity, slash, rest = name.partition("/")
    if slash:
        raise ValueError(f"project {name} begins with an entity: write tracker.entity={entity} tracker.project={rest}")
    if other := [letter for letter in FORBIDDEN if letter in name]:
        raise ValueError(f"project {name} has {other[0]!r}, which W&B takes in none: write letters, digits, - and _")


def quiet_setup() -> None:
    """Load W&B's settings and start its service, without a word on the terminal.

    Its error telemetry is off unless the user turned it on: a server that hangs would hold the process at its exit.

    Raises:
        UserError: W&B does not take what the variables or its settings file say.
    """
    _tidy_variables()
    import wandb

    try:
        wandb.setup(wandb.Settings(silent=True, quiet=True))
    except Exception as error:
        raise UserError(
            "W&B takes none of its settings: mend the WANDB_ variable or the line of its settings file that it names "
            f"({' '.join(str(error).split())[:300]})"
        ) from error


def _tidy_variables() -> None:
    """Take away what means nothing here and for which W&B would take none of its settings, and track nothing."""
    # A second try writes over the first. W&B has no argument against the variable: "never" refuses the second try.
    # The service of a script around us would hold on to the id of a run that it could not start.
    without = ["WANDB_RESUME", "WANDB_SERVICE", *OVERRIDDEN, *([] if os.environ.get(AGENTS[0]) else AGENTS)]
    without += [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value.strip()]
    for name in without:
        os.environ.pop(name, None)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if (key := os.environ.get(KEY)) is not None:
        os.environ[KEY] = key.strip()  # a secret of a file ends with its line
    if tags := tags_in(os.environ.pop(TAGS, "")):
        os.environ[TAGS] = ",".join(tags)
    if os.path.expanduser("~") == "~":  # no home: W&B would not get further than looking for its settings there
        os.environ.setdefault("WANDB_CONFIG_DIR", str(cache_folder()))


def leave_agent() -> bool:
    """Take away what an agent of a W&B sweep calls its one run, by which several would be one; whether it was there."""
    there = all(map(os.environ.get, AGENTS))
    for name in AGENTS:
        os.environ.pop(name, None)
    return there


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
