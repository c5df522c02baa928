"""Peak memory against allocations of a known size."""

import pytest
import torch

from peftbench.measuring import memory
from peftbench.measuring.memory import PeakMemory, resident

CPU = torch.device("cpu")
SIZE = 200 * 2**20


def hold(size: int = SIZE) -> torch.Tensor:
    """Touch every page: memory that is only reserved is not resident."""
    return torch.ones(size, dtype=torch.uint8)


def test_a_known_allocation_is_seen_although_it_is_gone_at_the_end():
    with PeakMemory(CPU) as peak:
        hold()
    assert peak.bytes == pytest.approx(SIZE, rel=0.05)
    assert peak.metrics("train") == {"memory/train_peak_bytes": peak.bytes, "memory/source": "process_rss"}


def test_memory_freed_before_the_phase_does_not_count():
    hold()
    with PeakMemory(CPU) as peak:
        hold(SIZE // 10)
    assert peak.bytes == pytest.approx(SIZE / 10, rel=0.25)


def test_what_was_loaded_after_the_baseline_counts():
    baseline = resident(CPU)
    weights = hold()
    with PeakMemory(CPU, baseline) as peak:
        hold(SIZE // 2)
    assert peak.bytes == pytest.approx(SIZE * 1.5, rel=0.05)
    del weights


def test_phases_in_a_row_are_reset():
    with PeakMemory(CPU):
        hold()
    with PeakMemory(CPU) as second:
        pass
    assert second.bytes < SIZE * 0.05


def test_an_inner_phase_does_not_hide_the_outer_peak():
    with PeakMemory(CPU) as outer:
        hold()
        with PeakMemory(CPU) as inner:
            hold(SIZE // 2)
    assert inner.bytes == pytest.approx(SIZE / 2, rel=0.1)
    assert outer.bytes == pytest.approx(SIZE, rel=0.05)


def test_a_phase_that_raises_is_measured():
    def fail() -> None:
        hold()
        raise MemoryError

    peak = PeakMemory(CPU)
    with pytest.raises(MemoryError), peak:
        fail()
    assert peak.bytes == pytest.approx(SIZE, rel=0.05)


def test_without_a_counter_to_reset_the_figure_is_absent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_reset", lambda device: False)
    with PeakMemory(CPU) as peak:
        hold(2**20)
    assert (peak.bytes, peak.source, peak.metrics("train")) == (None, None, {})


def test_a_device_without_a_counter_is_absent():
    with PeakMemory(torch.device("mps")) as peak:
        pass
    assert (peak.bytes, peak.source) == (None, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts_allocated_bytes():
    device = torch.device("cuda")
    baseline = resident(device)
    weights = torch.ones(SIZE, dtype=torch.uint8, device=device)
    with PeakMemory(device, baseline) as peak:
        torch.ones(SIZE // 2, dtype=torch.uint8, device=device)
    assert peak.bytes == pytest.approx(SIZE * 1.5, rel=0.01)
    assert peak.source == "cuda_allocated"
    del weights
