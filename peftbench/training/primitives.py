"""How much oneDNN may remember, which multiplies bf16 matrices on the CPU.

For every shape of a product it builds a kernel and keeps it, and so does torch's layer above it: 0.55 MB in all for
each, up to 1,024 of them. Batches padded to their longest item have as many shapes as there are lengths, about 20
products each: after some hundred steps on SST-2 half of a run's memory was kernels, and what they pinned down between
freed activations. With room for the products of two or three batches peak memory falls from 840 to 440 MB at 120
steps of LoRA on MiniLM, and the time of a step does not change measurably: layers of a network share their shapes, so
nearly all of what is used again is used again within the step.
"""

from __future__ import annotations

import os

KEPT = 64
"""Shapes that oneDNN keeps; a step of full fine-tuning has about 30."""
VARIABLES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": 1.0, "LRU_CACHE_CAPACITY": 0.5}
"""What is told how many, as a fraction of that: oneDNN itself, and torch's layer above it for each kind of product
(plain, and with a bias). They are read when the first product is computed."""


def bound_caches(kept: int = KEPT) -> None:
    """Keep kernels of so many shapes, unless the environment says otherwise; call it before the first product."""
    for name, part in VARIABLES.items():
        os.environ.setdefault(name, str(round(part * kept)))
