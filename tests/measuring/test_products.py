"""The speed of bf16 products: which of two times counts, and that a machine is measured once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from peftbench.measuring import products

SECONDS = {torch.float32: 0.010, torch.bfloat16: 0.004}


@pytest.fixture(autouse=True)
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """Products that take `SECONDS`, a machine slower by half, and now and then one that waits; the dtypes seen."""
    seen: list[torch.dtype] = []

    def seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
        assert x.dtype == weight.dtype
        assert torch.get_num_threads() == 1
        seen.append(x.dtype)
        slower = 1.5 if len(seen) > products.ROUNDS else 1.0
        return SECONDS[x.dtype] * slower * (0.1 if len(seen) == 5 else 8.0 if len(seen) % 9 == 0 else 1.0)

    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(products, "_seconds", seconds)
    products._remembered.cache_clear()
    yield seen
    products._remembered.cache_clear()


def test_what_disturbs_a_product_does_not_count(timed: list[torch.dtype]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert products.bf16_gain("a CPU") == 2.5
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert timed == [torch.float32, torch.bfloat16] * (1 + products.ROUNDS), "they take turns"


def test_a_machine_is_measured_once_and_another_one_by_itself(timed: list[torch.dtype]) -> None:
    for cpu in ("a CPU", "a CPU", "another"):
        products._remembered.cache_clear()  # as in a new process
        products.bf16_gain(cpu)
    assert len(timed) == 2 * 2 * (1 + products.ROUNDS)


def test_a_damaged_answer_is_measured_again(tmp_path: Path, timed: list[torch.dtype]) -> None:
    products.bf16_gain("a CPU")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_text("{")
    products._remembered.cache_clear()
    assert products.bf16_gain("a CPU") == 2.5
    assert json.loads(path.read_text())["gain"] == 2.5


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "file"))
    assert products.bf16_gain("a CPU") == 2.5
