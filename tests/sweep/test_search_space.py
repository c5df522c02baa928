"""The space of a search: dimensions as they are written, and what cannot be searched."""

from __future__ import annotations

import optuna
import pytest

from peftbench.errors import UserError
from peftbench.sweep.search_space import Choice, Number


@pytest.mark.parametrize(
    ("written", "dimension"),
    [
        ("method=lora,hira", Choice("method", ("lora", "hira"))),
        ("method=choice(lora,hira,lora)", Choice("method", ("lora", "hira"))),
        ("rank=4,8", Choice("rank.value", ("4", "8"))),
        ("rank=int(interval(4,64))", Number("rank.value", 4, 64, 1, False, True)),
        ("rank=tag(log, int(interval(4,64)))", Number("rank.value", 4, 64, 1, True, True)),
        ("rank=range(4,65,4)", Number("rank.value", 4, 64, 4, False, True)),
        ("rank=range(4,64,4)", Number("rank.value", 4, 60, 4, False, True)),
        ("trainer.warmup_ratio=interval(0,1)", Number("trainer.warmup_ratio", 0.0, 1.0, None, False, False)),
        ("trainer.lr=tag(log, interval(1e-5,1e-2))", Number("trainer.lr", 1e-5, 1e-2, None, True, False)),
    ],
)
def test_dimensions_are_written_as_sweeps(space, written: str, dimension) -> None:
    found = space(written, "seed=3")
    assert found.dimensions == (dimension,)
    assert found.fixed == ("seed=3",)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask(found.distributions()).params
    (value,) = sampled.values()
    assert found.overrides(sampled) == ("seed=3", f"{dimension.key}={dimension.write(value)}")


def test_a_stepped_float_has_no_rounding_error_in_its_overrides(space) -> None:
    (dimension,) = space("trainer.warmup_ratio=range(0.1,0.75,0.1)").dimensions
    assert (dimension.low, round(dimension.high, 6), dimension.step) == (0.1, 0.7, 0.1)
    assert dimension.write(0.1 + 0.2) == "0.3"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("method=lora", "something to vary"),
        ("sweep=a,b", "changes no result"),
        ("tracker=none,wandb", "changes no result"),
        ("trainer.lr=interval(1,1)", "low < high"),
        ("trainer.lr=tag(log, interval(0,1))", "above 0"),
        ("trainer.lr=tag(square, interval(0,1))", "only tag is log"),
        ("rank=tag(log, range(4,9))", "only an interval takes a tag"),
        ("method=shuffle(lora,hira)", "no order to shuffle"),
        ("rank=range(8,8)", "empty"),
    ],
)
def test_what_cannot_be_searched_is_refused(space, written: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space(written)


@pytest.mark.parametrize("written", ["method=lora,nope", "rank=int(interval(0,8))", "trainer.lr=interval(0.1,20)"])
def test_every_option_and_bound_is_checked_before_the_first_trial(start, runner, tmp_path, written: str) -> None:
    with pytest.raises(UserError, match="at the point"):
        start(written)
    assert not runner.calls
    assert not (tmp_path / "s").exists()
