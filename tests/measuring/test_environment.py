"""Precision, environment and energy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from peftbench.measuring import environment, heap, precision, products
from peftbench.measuring.energy import Energy
from peftbench.measuring.environment import describe, git_state

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A committed file of a fresh checkout."""
    file = tmp_path / "package" / "__init__.py"
    file.parent.mkdir()
    file.write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return file


def test_what_changes_the_allocator_is_recorded(monkeypatch: pytest.MonkeyPatch):
    for name in heap.from_environment():
        monkeypatch.delenv(name)
    monkeypatch.setattr(heap, "_set", {})
    assert describe(CPU, torch.float32)["allocator"] == {}
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert describe(CPU, torch.float32)["allocator"] == {"MALLOC_MMAP_THRESHOLD_": "65536"}


@pytest.mark.parametrize(
    ("flag", "gain", "dtype"),
    [
        ("avx512_bf16", 2.4, torch.bfloat16),
        ("avx512_bf16", 0.55, torch.float32),
        ("avx512_bf16", 1.1, torch.float32),
        ("avx512_f", 2.4, torch.float32),
    ],
)
def test_auto_is_bf16_where_the_processor_has_it_and_is_faster_with_it(
    flag: str, gain: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    monkeypatch.setattr(products, "bf16_gain", lambda cpu: gain)
    assert precision.resolve("auto", CPU) == dtype
    assert describe(CPU, dtype)["bf16_gain"] == (gain if flag == "avx512_bf16" else None), "the record says why"
    assert describe(CPU, dtype)["precision"] == precision.label(dtype)
    assert precision.resolve("bf16", CPU) == torch.bfloat16
    assert precision.resolve("fp32", CPU) == torch.float32
    assert precision.resolve("auto", torch.device("mps")) == torch.float32


def test_emulated_bf16_is_stated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert describe(CPU, torch.bfloat16)["precision_emulated"] is True
    assert describe(CPU, torch.float32)["precision_emulated"] is False
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert describe(CPU, torch.bfloat16)["precision_emulated"] is False


def test_autocast_makes_a_fresh_context_each_time_and_does_nothing_in_fp32():
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for dtype in (torch.float32, torch.bfloat16):
        factory = precision.autocast(CPU, dtype)
        for _ in range(2):
            with factory():
                assert layer(x).dtype == dtype


def test_the_description_is_json_and_complete():
    facts = json.loads(json.dumps(describe(CPU, torch.float32)))
    assert facts["versions"]["torch"] == torch.__version__
    assert all(facts["versions"].values())
    assert facts["device_name"] == environment.device_name(CPU) != ""
    assert (facts["precision"], facts["threads"]) == ("fp32", torch.get_num_threads())
    assert facts["cores"] <= os.cpu_count()


def test_the_commit_is_of_the_code_and_not_of_the_working_directory(
    source: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    state = git_state(source)
    monkeypatch.delenv("GIT_DIR")
    assert state == {"git_commit": git(source.parent, "rev-parse", "HEAD"), "git_dirty": False}


def test_changed_and_untracked_files_make_it_dirty(source: Path):
    (source.parent / "method.py").write_text("")
    assert git_state(source)["git_dirty"] is True
    (source.parent / "method.py").unlink()
    page = source.parents[1] / "docs" / "benchmarks" / "steps.md"
    page.parent.mkdir(parents=True)
    page.write_text("a page changes no figure")
    assert git_state(source)["git_dirty"] is False
    source.write_text("changed")
    assert git_state(source)["git_dirty"] is True


def test_a_wheel_inside_some_checkout_is_not_that_checkout(source: Path):
    installed = source.parents[1] / ".venv" / "package" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    assert git_state(installed) == {"git_commit": None, "git_dirty": None}


def test_without_git_there_is_no_commit(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(source) == {"git_commit": None, "git_dirty": None}


def test_there_is_no_energy_figure_without_a_counter():
    with Energy(CPU) as energy:
        pass
    assert energy.metrics() == {}


def test_energy_is_the_difference_of_the_counter(monkeypatch: pytest.MonkeyPatch):
    counter = iter([5_000, 12_500])
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-ab": "card"}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"card": counter}[handle].__next__(),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with Energy(torch.device("cuda")) as energy:
        pass
    assert energy.metrics() == {"energy/train_j": 7.5}


def test_a_card_without_the_counter_has_no_figure(monkeypatch: pytest.MonkeyPatch):
    def refuse(handle):
        raise RuntimeError("not supported")

    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: "card",
        nvmlDeviceGetTotalEnergyConsumption=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with Energy(torch.device("cuda")) as energy:
        pass
    assert energy.joules is None
