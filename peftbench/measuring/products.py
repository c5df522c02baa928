"""How fast this CPU multiplies matrices in bf16 beside fp32: measured once for a machine, then remembered.

Its instructions do not say: with AVX512-BF16 an AMD EPYC (Zen 4) is 2.4 times faster in bf16, and a Xeon whose AMX
is hidden from a virtual machine nearly twice as slow.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING

from peftbench.files import cache_folder
from peftbench.record import write_atomically

if TYPE_CHECKING:
    import torch

SHAPE = (512, 768, 768)
"""Tokens, inputs and outputs of the linear layer that is timed."""
ROUNDS = 7
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
    key = hashlib.sha256(json.dumps([cpu, version, SHAPE]).encode()).hexdigest()[:16]
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
    """Both take turns, and the fastest of each counts: what other processes do makes a product slower, never faster."""
    import torch

    tokens, inputs, outputs = SHAPE
    x, weight = torch.ones(tokens, inputs), torch.ones(outputs, inputs)
    pairs = [(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
    with torch.no_grad():
        rounds = [[_seconds(*pair) for pair in pairs] for _ in range(1 + ROUNDS)]
    fp32, bf16 = (min(times) for times in zip(*rounds[1:], strict=True))
    return round(fp32 / bf16, 2)


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    import torch

    start = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    return time.perf_counter() - start
