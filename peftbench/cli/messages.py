"""One clear sentence for whatever went wrong while composing."""

from __future__ import annotations

import difflib

from omegaconf import DictConfig

from peftbench.errors import UserError


def explain(error: BaseException) -> str:
    """What is wrong and what to write instead, for errors of ours, of Hydra and of OmegaConf."""
    if isinstance(error, UserError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "provider=", "Config search"))]
    return "; ".join(lines[:1] + _hints(error, lines[1:]))


def _hints(error: BaseException, rest: list[str]) -> list[str]:
    """The options that exist where an unknown one was written, the nearest first."""
    cause: BaseException | None = error
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
        if isinstance(parent, DictConfig) and key is not None:
            names = [str(name) for name in parent]
            near = difflib.get_close_matches(str(key), names, n=1)
            return ([f"did you mean {near[0]}?"] if near else []) + [f"there is: {', '.join(names) or 'no option'}"]
        cause = cause.__cause__ or cause.__context__
    return [line for line in rest if not line.startswith("To append")]
