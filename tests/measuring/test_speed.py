"""Training and inference speed against a clock that only the fake model moves."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from peftbench.measuring.inference import _spread, profile_inference
from peftbench.measuring.throughput import StepMeter

from .fakes import FakeTask, encoded

CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def train(meter: StepMeter, clock: Clock, seconds: list[float]) -> None:
    for duration in seconds:
        meter.begin()
        clock.now += duration
        meter.end(real_tokens=4, computed_tokens=10, samples=2)
        clock.now += 1000  # validation between steps is nobody's training speed


def test_speed_is_of_the_measured_steps_and_padding_of_all():
    clock = Clock()
    meter = StepMeter(CPU, total_steps=4, warmup=2, clock=clock)
    train(meter, clock, [50.0, 50.0, 1.0, 3.0])
    assert meter.metrics() == pytest.approx(
        {
            "speed/train_tokens_per_s": 8 / 4,
            "speed/train_samples_per_s": 4 / 4,
            "speed/train_step_ms_p50": 2000.0,
            "speed/train_step_ms_p95": 2900.0,
            "padding/efficiency": 4 / 10,
        }
    )


@pytest.mark.parametrize(("steps", "warmup"), [(1, 1), (10, 1), (11, 2), (40, 4), (1000, 5)])
def test_the_warmup_is_a_tenth_and_at_most_five(steps: int, warmup: int):
    assert StepMeter(CPU, steps).warmup == warmup


def test_without_measured_steps_there_is_no_speed():
    clock = Clock()
    meter = StepMeter(CPU, total_steps=1, clock=clock)
    assert meter.metrics() == {}
    train(meter, clock, [1.0])
    assert meter.metrics() == {"padding/efficiency": 0.4}


def test_steps_that_do_not_pair_are_errors():
    meter = StepMeter(CPU, 1)
    with pytest.raises(RuntimeError, match="without a begin"):
        meter.end(1, 1, 1)
    meter.begin()
    with pytest.raises(RuntimeError, match="before the step's end"):
        meter.begin()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_steps_are_timed_on_the_device():
    device = torch.device("cuda")
    meter = StepMeter(device, total_steps=6, warmup=2)
    for _ in range(6):
        meter.begin()
        torch.cuda._sleep(20_000_000)  # cycles: about 10 ms, which the host does not wait for
        meter.end(4, 4, 1)
    assert 3 < meter.metrics()["speed/train_step_ms_p50"] < 60


class Model(nn.Module):
    """Takes a millisecond a computed token, and ten seconds the first three times."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.clock = clock
        self.calls: list[tuple[int, int]] = []
        self.states: set[tuple[bool, bool]] = set()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        self.states.add((self.training, torch.is_grad_enabled()))
        self.clock.now += 10.0 if len(self.calls) < 3 else input_ids.numel() / 1000
        self.calls.append(tuple(input_ids.shape))
        return input_ids


def profile(lengths: list[int], **options) -> tuple[dict[str, float], Model]:
    clock = Clock()
    model = Model(clock).train()
    found = profile_inference(
        model, FakeTask(), encoded(lengths), options.pop("batch_size", 4), CPU, nullcontext, clock=clock, **options
    )
    return found.metrics, model


def test_latency_is_of_single_items_after_warmup_over_all_lengths():
    figures, model = profile(list(range(1, 101)), budget_s=60.0)
    assert figures["speed/infer_latency_ms_p50"] == pytest.approx(50, abs=2)
    assert figures["speed/infer_latency_ms_p95"] == pytest.approx(95, abs=3)
    assert sum(1 for items, _ in model.calls if items == 1) == 3 * 63 + 3


def test_samples_a_second_are_at_the_evaluation_batch_size():
    figures, model = profile([10] * 100)
    assert figures["speed/infer_samples_per_s"] == pytest.approx(4 / 0.040)
    assert {shape for shape in model.calls if shape[0] != 1} == {(4, 10)}


def test_a_split_smaller_than_a_batch_repeats_items():
    figures, model = profile([10, 20], batch_size=8)
    assert {items for items, _ in model.calls} == {1, 8}
    assert figures["speed/infer_samples_per_s"] > 0


def test_a_spent_budget_leaves_the_minimum_and_stays_representative():
    figures, model = profile(list(range(1, 1001)), budget_s=0.0)
    assert sum(1 for items, _ in model.calls if items == 1) == 20 + 3
    assert sum(1 for items, _ in model.calls if items == 4) == 3 + 1
    assert figures["speed/infer_latency_ms_p50"] == pytest.approx(500, rel=0.1)


class Uneven(Model):
    """The first round over single items is twice as fast as the later ones, whatever the batch."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        single = sum(1 for items, _ in self.calls if items == 1)
        self.clock.now += 0.010 if single < 3 + 63 else 0.020
        self.calls.append(tuple(input_ids.shape))
        return input_ids


def test_rounds_repeat_the_same_passes_and_their_spread_is_kept():
    clock = Clock()
    model = Uneven(clock)
    found = profile_inference(model, FakeTask(), encoded([5] * 100), 4, CPU, nullcontext, clock=clock, budget_s=60.0)
    # Rounds of 10, 20 and 20 ms; the batches were all equally slow.
    assert found.spread["speed/infer_latency_ms_p50"] == pytest.approx(10 / (50 / 3))
    assert found.spread["speed/infer_samples_per_s"] == pytest.approx(0)
    assert found.metrics["speed/infer_latency_ms_p50"] == pytest.approx(20)


def test_a_single_round_has_no_spread():
    clock = Clock()
    found = profile_inference(
        Model(clock), FakeTask(), encoded([5] * 100), 4, CPU, nullcontext, clock=clock, budget_s=0.0
    )
    assert found.spread == {}
    assert len(found.metrics) == 3


def test_a_known_sleep_is_seen():
    import time

    class Sleeper(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
            time.sleep(0.02)

    options = {"budget_s": 0.0, "min_items": 5, "min_batches": 2}
    found = profile_inference(Sleeper(), FakeTask(), encoded([5] * 20), 4, CPU, nullcontext, **options).metrics
    # A busy machine wakes late, never early.
    assert 20 <= found["speed/infer_latency_ms_p50"] < 200
    assert 4 / 0.2 < found["speed/infer_samples_per_s"] <= 4 / 0.02
    meter = StepMeter(CPU, total_steps=3, warmup=1)
    for _ in range(3):
        meter.begin()
        time.sleep(0.02)
        meter.end(10, 20, 2)
    assert 20 <= meter.metrics()["speed/train_step_ms_p50"] < 200


def test_the_prefix_names_the_merged_figures():
    figures, _ = profile([5] * 10, prefix="speed/infer_merged")
    assert set(figures) == {
        "speed/infer_merged_latency_ms_p50",
        "speed/infer_merged_latency_ms_p95",
        "speed/infer_merged_samples_per_s",
    }


def test_the_model_is_measured_in_eval_mode_without_gradients_and_given_back_as_it_was():
    clock = Clock()
    model = Model(clock).train()
    model.dropout.eval()
    profile_inference(model, FakeTask(), encoded([3] * 8), 2, CPU, nullcontext, clock=clock)
    assert model.states == {(False, False)}
    assert (model.training, model.dropout.training) == (True, False)


def test_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        profile([])


@pytest.mark.parametrize("count", [1, 2, 7, 10, 63])
def test_the_order_visits_everything_once_from_the_middle_out(count: int):
    assert sorted(_spread(count)) == list(range(count))
    assert _spread(count)[0] == count // 2
