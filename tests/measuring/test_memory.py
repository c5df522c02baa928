"""Peak memory against allocations of a known size."""

import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import needs_populate

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


def test_what_has_gone_since_the_baseline_is_not_taken_from_what_is_needed():
    held = hold()
    baseline = resident(CPU)
    del held
    with PeakMemory(CPU, baseline) as peak:
        hold(SIZE // 10)
    assert peak.bytes == pytest.approx(SIZE / 10, rel=0.25)


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


def test_pages_of_a_mapped_checkpoint_that_nothing_needs_do_not_count(tmp_path) -> None:
    size = 64 * 2**20
    save_file({"w": torch.ones(size // 4)}, tmp_path / "model.safetensors")
    before = resident(CPU)
    mapped = load_file(tmp_path / "model.safetensors")["w"]
    assert float(mapped.sum()) == size / 4
    assert abs(resident(CPU) - before) < size / 4
    with PeakMemory(CPU, before) as memory:
        assert float(mapped.sum()) == size / 4
    assert memory.bytes > size * 0.9, "pages that the phase reads count"


def test_letting_go_of_mapped_weights_changes_no_value(tmp_path) -> None:
    save_file({"read": torch.arange(5000.0)}, tmp_path / "read.safetensors")
    save_file({"written": torch.arange(5000.0)}, tmp_path / "written.safetensors")
    with safe_open(tmp_path / "read.safetensors", "pt") as file:
        read = file.get_tensor("read")
    with safe_open(tmp_path / "written.safetensors", "pt") as file:
        written = file.get_tensor("written")
    written += 1
    resident(CPU)
    assert torch.equal(read, torch.arange(5000.0))
    assert torch.equal(written, torch.arange(5000.0) + 1)


NEW_CODE = """
import sys, torch
from peftbench.measuring import memory
torch.optim.AdamW([torch.ones(1)])  # imports libraries of its own
if sys.argv[1] == "without":
    memory._bring_code_in = lambda: None
assert memory.resident(torch.device("cpu"))
before = memory._proc_status("RssFile")
net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Dropout(0.1))
with torch.autocast("cpu", torch.bfloat16):
    net(torch.ones(8, 64)).float().softmax(-1).log().sum().backward()
torch.optim.AdamW(net.parameters(), fused=True).step()
print(memory._proc_status("RssFile") - before)
"""


@needs_populate
def test_code_that_a_run_comes_to_execute_is_not_of_its_memory() -> None:
    """A library's code is read from its file as it is first executed: after the baseline, were it not for us."""
    apart, together = (
        int(subprocess.run([sys.executable, "-c", NEW_CODE, name], capture_output=True, check=True, text=True).stdout)
        for name in ("without", "with")
    )
    assert together < apart / 4
    assert together < 4e6
