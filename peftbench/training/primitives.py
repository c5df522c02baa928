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

KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": 96, "LRU_CACHE_CAPACITY": 24}
"""Shapes: of oneDNN itself, and of each kind of product in torch's layer above it (plain, and with a bias). A step of
full fine-tuning has about 30; one with ``sparsity=contextual``, whose blocks differ in width, has more than 64, and
where not all are kept each is built anew in every step, a fifth of a step of 32 x 16 tokens. The variables are read
when the first product is computed."""


def bound_caches() -> None:
    """Keep kernels of `KEPT` shapes, unless the environment says otherwise; call it before the first product."""
    for name, shapes in KEPT.items():
        os.environ.setdefault(name, str(shapes))
