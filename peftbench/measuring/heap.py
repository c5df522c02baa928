"""What the C allocator does with memory that is freed: by itself it costs up to a tenth of a training step.

torch has no cache of its own on the CPU. glibc gives blocks above a threshold, and the end of its heap, back to the
system as soon as they are free, so every step's activations are new pages, each of which the kernel must fault in and
clear: at IMDB's length 10,000 of them in a step of LoRA on MiniLM (docs/benchmarks/allocator.md).
`peftbench.measuring.memory.resident` gives free pages back between phases.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Callable

ELSEWHERE = ("GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables that concern the allocator, or choose another, if their value names one (``libjemalloc.so``)."""
KEEP = {"M_MMAP_THRESHOLD": (-3, 32 * 2**20), "M_TRIM_THRESHOLD": (-1, -1)}
"""glibc's options with their numbers (malloc.h) and values: up to 32 MB, the largest threshold that it would choose by
itself, blocks are part of the heap, and no end of that is given back. Not larger ones: before 2.38 an aligned block may
not be used again as soon as something small lies behind it, and a heap of such blocks grows without bound."""
PURGE = b"arena.4096.purge"
"""jemalloc's command to give back what is free; 4096 stands for all arenas."""
_set: dict[str, str] = {}


def keep_freed_memory() -> None:
    """From now on this process uses freed memory again, unless the environment says something about its allocator.

    Nothing happens where the C library is not glibc.
    """
    if from_environment() or (mallopt := _libc("mallopt")) is None:
        return
    for name, (number, value) in KEEP.items():
        if mallopt(number, value):
            _set[name] = str(value)


def jemalloc() -> dict[str, str]:
    """The variable that has a new process use jemalloc; empty where the machine has none."""
    name = ctypes.util.find_library("jemalloc") if sys.platform == "linux" else None
    return {} if name is None else {"LD_PRELOAD": name}


def from_environment() -> dict[str, str]:
    """Variables that this process was started with and that concern its allocator."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_") or (name in ELSEWHERE and "alloc" in value)
    }


def settings() -> dict[str, str]:
    """What differs from the allocator's defaults, by the name of variable or option."""
    return from_environment() | _set


def trim() -> None:
    """Give free pages back to the system, where the allocator knows how (glibc, jemalloc)."""
    if (malloc_trim := _libc("malloc_trim")) is not None:
        malloc_trim(0)
    if (mallctl := _libc("mallctl")) is not None:
        mallctl(PURGE, None, None, None, ctypes.c_size_t(0))


def _libc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it has none of that name."""
    if sys.platform != "linux":
        return None
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found
