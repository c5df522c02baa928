"""What a step costs in counts that are the same on every machine: products, FLOPs, waits for the device, padding.

Seconds are measured by ``make bench``; a change that makes a step dearer by an operation shows here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn

from peftbench.bench.contenders import Contender, Ops, enter
from peftbench.bench.suite.contextual import QUICK, enter_sparse
from peftbench.bench.workloads import RANK, TINY, Case
from peftbench.measuring.sizes import base_bytes
from peftbench.tasks.batching import batch_rows

LAYERS = 2
FROZEN, PAIRS = 6 * LAYERS, 2 * LAYERS
"""Linear layers of the tiny BERT's encoder, and those of them that are adapted (q and v)."""
FIRST = 3
"""q, k and v of the first layer: what they are given needs no gradient, which saves them dx."""
CARRIED = 1
"""k of the last layer: its weight is applied to the one query, by a product of another kind (bmm)."""
HEAD = 2 + 3
"""Pooler (frozen): y, dx; classifier (trained): y, dx, dW."""
PRODUCTS = ("mm", "addmm", "_linear_pointwise", "gemm_4bit")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select")
"""What a GPU must have finished before the host can go on."""


@cache
def contender(name: str) -> Contender:
    return enter(Case(TINY, "attention", "cpu"), name)


@cache
def ops(name: str) -> Counter[str]:
    one = contender(name)
    with Ops() as seen:
        one.step()
    return seen.counts


@pytest.mark.parametrize(("name", "carried"), [("peft_lora", 0), ("lora", CARRIED)])
def test_a_pair_costs_six_thin_products_and_a_frozen_layer_two(name: str, carried: int) -> None:
    # A pair: two outputs, two gradients of weights, two of inputs; the first layer's input needs none.
    expected = (2 * (FROZEN - carried) - FIRST) + (6 * PAIRS - 2) + HEAD
    assert sum(ops(name)[product] for product in PRODUCTS) == expected


def test_a_step_has_fewer_ops_than_pefts() -> None:
    # Theirs cast, scale and add for every pair, both ways; attention is the same, and dropout has more parts here.
    for ours, theirs in (("lora", "peft_lora"), ("hira", "peft_hira"), ("qlora", "peft_qlora")):
        assert ops(ours).total() < 0.95 * ops(theirs).total()


def test_hira_costs_one_full_product_more_and_four_thin_ones() -> None:
    # H is the full one. Thin: BA to build E, once more for dx, dA and dB.
    expected = (2 * (FROZEN - CARRIED) - FIRST) + PAIRS + (4 * PAIRS - 2) + HEAD
    assert sum(ops("hira")[product] for product in PRODUCTS) == expected


def test_qlora_computes_what_lora_does_and_dequantizes_once_for_each_product() -> None:
    # Forward inside bitsandbytes' product, backward before torch's, which takes a batch of matrices where a gradient
    # does not lie as one: nothing is kept in between.
    found, dense = ops("qlora"), ops("lora")
    assert found["gemm_4bit"] == FROZEN - CARRIED + 1, "the pooler too"
    assert found["dequantize_4bit"] == FROZEN + 1 - FIRST, "what is carried once, forward"
    assert sum(found[product] for product in (*PRODUCTS, "bmm")) == sum(dense[p] for p in (*PRODUCTS, "bmm"))


def padded(one: Contender) -> Contender:
    """The same with a batch of which one token is padding."""
    mask = one.batch.inputs["attention_mask"].clone()
    mask[0, -1] = 0
    inputs = {**one.batch.inputs, "attention_mask": mask}
    return replace(one, batch=replace(one.batch, inputs=inputs, real_tokens=int(mask.sum())))


@pytest.mark.parametrize("change", [lambda one: one, padded], ids=["full", "padded"])
@pytest.mark.parametrize("name", ["lora", "qlora", "hira"])
def test_a_step_never_waits_for_the_device(name: str, change: Callable[[Contender], Contender]) -> None:
    one = change(contender(name))
    with Ops() as seen:
        one.step()
    assert sum(seen.counts[wait] for wait in WAITS) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("change", [lambda one: one, padded], ids=["full", "padded"])
@pytest.mark.parametrize("name", ["lora", "qlora", "hira", "contextual"])
def test_cuda_itself_sees_no_wait(name: str, change: Callable[[Contender], Contender]) -> None:
    case = Case(TINY, "attention", "cuda")
    one = change(enter_sparse(case, *QUICK)[0] if name == "contextual" else enter(case, name))
    for _ in range(3):
        one.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_flops_of_a_token_are_those_of_the_products() -> None:
    lora, qlora, hira, theirs = (contender(n).flops_per_token() for n in ("lora", "qlora", "hira", "peft_hira"))
    assert lora == contender("peft_lora").flops_per_token() - unread() == qlora
    assert lora < hira < theirs


def unread() -> float:
    """FLOPs a token of a plain step in the last layer that ours does without, where one token is read.

    Forward and backward: two products for each frozen weight, six for a pair, six for scores and their weights. Keys
    are carried to one query, values to what its heads found, which attend to tokens of all of ``width``.
    """
    width, hidden, length, heads = 32, 64, TINY.length, 2
    square, pair, scores = 2 * 2 * width**2, 6 * 2 * RANK * width, 6 * 2 * length * width
    others = (length - 1) * (2 * square + 2 * 2 * 2 * width * hidden + pair + scores)
    carried = (length - 1) * square + (length - heads) * (square + pair) + (1 - heads) * scores
    return (others + carried) / length


def test_frozen_layers_are_held_as_they_are_computed_with() -> None:
    plain, held = (contender(name).frozen_linear_bytes() for name in ("peft_lora", "lora"))
    assert held * 4 == plain * contender("lora").context.dtype.itemsize


def test_a_four_bit_layer_of_real_size_takes_less_than_a_sixth_of_float32() -> None:
    dense = nn.Linear(384, 384)
    four_bit = Linear4bit(384, 384, quant_type="nf4", compress_statistics=True)
    four_bit.load_state_dict(dense.state_dict())
    assert base_bytes(four_bit.to("cpu"), ()) <= 0.16 * base_bytes(dense, ())


def test_little_of_what_is_computed_is_padding() -> None:
    # Lengths like SST-2's: half of them below 9, a long tail.
    lengths = np.clip(np.random.default_rng(0).lognormal(2.2, 0.7, 6400).astype(np.int64) + 2, 3, 66)
    efficiency = [
        lengths.sum() / sum(len(rows) * lengths[rows].max() for rows in batch_rows(lengths, 32, seed))
        for seed in range(3)
    ]
    assert min(efficiency) >= 0.97
