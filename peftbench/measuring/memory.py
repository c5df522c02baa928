"""Peak memory of one phase: a counter that is reset, read and never estimated.

On the CPU the kernel itself keeps the high-water mark of the resident set (``VmHWM``); writing ``5`` to
``/proc/self/clear_refs`` sets it back to the present size. Where that is not possible the figure is absent: sampling
from a thread would miss every peak shorter than its interval. On CUDA it is the caching allocator's own counter of
*allocated* bytes: what it reserves beyond that depends on history, not on the work.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from peftbench.measuring import heap

if TYPE_CHECKING:
    import torch


MADV_DONTNEED, MADV_POPULATE_READ = 4, 22
CODE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-x\S* \S+ \S+ [1-9]", re.MULTILINE)
"""A mapping of a program's or library's code in /proc/self/maps: executable, of a file."""
MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) .*\.safetensors(?: \(deleted\))?\n(?:\w+: .*\n)*?Anonymous: +0 kB$", re.MULTILINE
)
"""A mapped checkpoint (the file of random weights is deleted by then) of which no page was written, in smaps."""


class PeakMemory:
    """Measures the peak of everything inside the ``with`` block.

    ``bytes`` is the peak minus ``baseline``; both count whatever is alive, so a model loaded *after* the baseline was
    taken is part of the peak, and memory that was freed before the block is not. The counter is one per process: blocks
    may follow each other, and not nest.

    Args:
        device: where the work is done.
        baseline: `resident` of the process before the work's model was loaded; None takes it at the block's start, so
            that only what the block itself adds is counted, as where less is in use by then.
    """

    def __init__(self, device: torch.device, baseline: int | None = None) -> None:
        self.device = device
        self.baseline = baseline
        self.bytes: int | None = None
        """Peak above the baseline in bytes; None while the block is open and where it cannot be measured."""
        self.source: str | None = _source(device)
        """``cuda_allocated``, ``process_rss``, or None where nothing can be measured."""

    def __enter__(self) -> Self:
        settled = resident(self.device)
        if self.baseline is None or (settled is not None and settled < self.baseline):
            self.baseline = settled  # what has gone since then would be taken from what the block needs
        if self.baseline is None or not _reset(self.device):
            self.source = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        peak = _peak(self.device)
        if self.source is not None and self.baseline is not None and peak is not None:
            self.bytes = max(0, peak - self.baseline)

    def metrics(self, phase: str) -> dict[str, int | str]:
        """``memory/{phase}_peak_bytes`` and ``memory/source``, or nothing where it was not measured."""
        if self.bytes is None or self.source is None:
            return {}
        return {f"memory/{phase}_peak_bytes": self.bytes, "memory/source": self.source}


def resident(device: torch.device) -> int | None:
    """Bytes in use now, after unreachable objects and the allocator's free lists are given back.

    CUDA: bytes in live tensors. CPU: the resident set, the code of all libraries included. None where unknown.
    """
    gc.collect()
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    heap.trim()
    _let_go_of_files()
    _bring_code_in()
    return _proc_status("VmRSS")


def _source(device: torch.device) -> str | None:
    return {"cuda": "cuda_allocated", "cpu": "process_rss"}.get(device.type)


def _let_go_of_files() -> None:
    """Take pages of mapped checkpoints out of the resident set; those that are needed come back by themselves.

    Weights are mapped files. Quantizing reads all of them once, and the dense pages, which nothing needs any more and
    the system would take back when short of memory, would stay in the resident set and count as the 4-bit base's (on
    MiniLM 42 MiB). A mapping in which anything was written is left alone.
    """
    _advise(MAPPING.finditer(_read("/proc/self/smaps")), MADV_DONTNEED)


def _bring_code_in() -> None:
    """Read the code of all libraries that are loaded into the resident set.

    A forked process has none of it there, and what a run comes to execute (about 75 MB, of several hundred that all
    processes share) would count as what its method needs. Linux before 5.14 leaves it so.
    """
    _advise(CODE.finditer(_read("/proc/self/maps")), MADV_POPULATE_READ)


def _advise(mappings: Iterable[re.Match[str]], advice: int) -> None:
    """Tell the kernel what is to become of the pages between the first two groups, addresses in hexadecimal."""
    try:
        advise = ctypes.CDLL(None).madvise
    except AttributeError:
        return
    for found in mappings:
        start, end = (int(address, 16) for address in found.group(1, 2))
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


def _read(path: str) -> str:
    """What the kernel says there of this process; nothing where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _reset(device: torch.device) -> bool:
    """Set the peak counter back to what is in use now; False where that cannot be done."""
    if device.type == "cuda":
        import torch

        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type != "cpu":
        return False
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return _proc_status("VmHWM") if device.type == "cpu" else None


def _proc_status(key: str) -> int | None:
    """One of the kB fields of ``/proc/self/status`` in bytes, or None outside Linux."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(f"{key}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
