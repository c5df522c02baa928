"""Which GPUs there are, found out without CUDA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from peftbench.sweep import slots

INFORMATION = """\
Model: \t\t NVIDIA H100
IRQ:   \t\t 170
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.74.00.01
Device Minor: \t 0
"""


def test_without_nvidia_smi_gpus_are_read_from_what_the_driver_shows(tmp_path: Path, monkeypatch) -> None:
    """As in a container with NVIDIA_DRIVER_CAPABILITIES=compute."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(slots, "DRIVER", tmp_path)
    assert slots.gpus() == []
    for card, uuid in {"0000:3b:00.0": "GPU-bb", "0000:18:00.0": "GPU-aa", "0000:86:00.0": "GPU-????????"}.items():
        (tmp_path / card).mkdir()
        (tmp_path / card / "information").write_text(INFORMATION.format(uuid=uuid))
    assert slots.gpus() == ["GPU-aa", "GPU-bb"], "one that the driver has not looked at yet has no name"


@pytest.mark.parametrize("node", slots.NODES)
def test_a_gpu_may_be_there_where_its_device_node_is_and_torch_could_use_it(node: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(os.path, "exists", lambda path: path == node)
    assert slots.may_have_gpus()
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert not slots.may_have_gpus()
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert slots.may_have_gpus()
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert not slots.may_have_gpus()
