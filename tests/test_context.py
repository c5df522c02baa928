import pytest
import torch

from peftbench.context import resolve_device
from peftbench.errors import UserError


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="device=auto"):
        resolve_device("cuda:7")


def test_a_gpu_that_is_not_among_those_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="device=cuda:2: the last CUDA device here is cuda:1; write"):
        resolve_device("cuda:2")
    assert [str(resolve_device(name)) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
