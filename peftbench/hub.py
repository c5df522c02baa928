"""The Hugging Face hub: asked once a process, and quickly, whether it is there.

Left alone, the libraries try an unreachable hub again and again, for more than 20 s for every data set and model.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROBE_SECONDS = 5.0


@contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Inside, `transformers` and `datasets` look into their caches only, unless the hub answers."""
    import huggingface_hub

    holders = [huggingface_hub.constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    was = [holder.HF_HUB_OFFLINE for holder in holders]
    if any(was) or _switched_off() or not _answers():
        for holder in holders:
            holder.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for holder, before in zip(holders, was, strict=True):
            holder.HF_HUB_OFFLINE = before


def _switched_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


@functools.cache
def _answers() -> bool:
    """Whether the hub answers within `PROBE_SECONDS`, be it with an error."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # A repository that every user of the hub can see.
        huggingface_hub.HfApi().model_info("google-bert/bert-base-uncased", timeout=PROBE_SECONDS)
    except HfHubHTTPError:
        return True
    except Exception:
        return False
    return True
