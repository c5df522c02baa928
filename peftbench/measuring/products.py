"""How fast this CPU multiplies matrices in bf16 beside fp32: measured once for a machine, then remembered.

Its instructions do not say: with AVX512-BF16 an AMD EPYC (Zen 4) is two to four times as fast in bf16, and a Xeon whose
AMX is hidden from a virtual machine five times as slow.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from statistics import median
from typing import TYPE_CHECKING

from peftbench.files import cache_folder
from peftbench.record import write_atomically

if TYPE_CHECKING:
    import torch

SHAPE = (512, 768, 768)
"""Tokens, inputs and outputs of the linear layer that is timed."""
ROUNDS = 15
log = logging.getLogger(__name__)


def bf16_gain(cpu: str) -> float:
    """Time of an fp32 product / time of the same in bf16, on this CPU; below 1 where bf16 is slower.

    Args:
        cpu: its model, under which the answer is kept beside torch's version.
    """
    import torch

    return _remembered(cpu, torch.__version__)


@functools.cache
def _remembered(cpu: str, version: str) -> float:
    key = hashlib.sha256(json.dumps([cpu, version, SHAPE, ROUNDS]).encode()).hexdigest()[:16]
    path = cache_folder() / f"bf16-{key}.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["gain"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.info("%s is damaged (%s): measuring again", path.name, error)
    gain = _measure()
    try:
        write_atomically(path, json.dumps({"cpu": cpu, "torch": version, "gain": gain}), durable=False)
    except OSError as error:  # then every run measures for itself
        log.info("%s cannot be written: %s", path, error)
    return gain


def _measure() -> float:
    """The median over rounds, in each of which one product follows the other, on one thread.

    Beside other processes the fastest of each may come from different moments, and one of several threads that has to
    wait holds up the whole product: the answer for this machine was anything from 0.9 to 16.
    """
    import torch

    tokens, inputs, outputs = SHAPE
    x, weight = torch.ones(tokens, inputs), torch.ones(outputs, inputs)
    pairs = [(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            rounds = [[_seconds(*pair) for pair in pairs] for _ in range(1 + ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return round(median(fp32 / bf16 for fp32, bf16 in rounds[1:]), 2)


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    import torch

    start = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    return time.perf_counter() - start
