import psutil
import pytest
import torch

from peftbench.measuring.curve import Curve


def test_throughput_since_the_last_reading_without_validation() -> None:
    now = [0.0]
    curve = Curve(torch.device("cpu"), lambda: now[0])
    curve.add(100)
    curve.add(50)
    now[0] = 3.0
    assert curve.read()["train/tokens_per_s"] == 50
    now[0] = 9.0
    curve.restart()
    curve.add(30)
    now[0] = 10.0
    assert curve.read()["train/tokens_per_s"] == 30


def test_memory_is_that_of_the_process() -> None:
    figures = Curve(torch.device("cpu")).read()
    assert figures["train/memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
