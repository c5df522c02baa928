"""Where peftbench keeps what it need not find out twice."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$PEFTBENCH_CACHE``, or ``~/.cache/peftbench``."""
    return Path(os.environ.get("PEFTBENCH_CACHE") or "~/.cache/peftbench").expanduser()
