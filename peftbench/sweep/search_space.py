"""What a search may vary, written as Hydra users write sweeps: lists, ranges, intervals, ``tag(log, ...)``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from peftbench.config import UNHASHED
from peftbench.errors import UserError
from peftbench.sweep.grid import expand

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution

DIGITS = 12


@dataclass(frozen=True)
class Dimension(ABC):
    """One option that the search varies; ``key`` is its name on the command line."""

    key: str

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """The same thing in Optuna's words."""

    @abstractmethod
    def probes(self) -> tuple[str, ...]:
        """Values that are composed before the first trial: if these are legal, the rest is."""

    @abstractmethod
    def write(self, value: Any) -> str:
        """A sampled value as it stands after the ``=`` of an override."""

    def holds(self, value: Any) -> bool:
        """Whether a value that was not sampled could have been."""
        distribution = self.distribution()
        try:
            self.write(value)
            return bool(distribution._contains(distribution.to_internal_repr(value)))
        except (ArithmeticError, TypeError, ValueError):
            return False


@dataclass(frozen=True)
class Choice(Dimension):
    """One of a few values, kept as they were written."""

    values: tuple[str, ...]

    def distribution(self) -> BaseDistribution:
        """See `Dimension.distribution`."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def probes(self) -> tuple[str, ...]:
        """Every value."""
        return self.values

    def write(self, value: Any) -> str:
        """The value itself."""
        return str(value)

    def __str__(self) -> str:
        return f"{self.key}: one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Number(Dimension):
    """A number from ``low`` to ``high``, both included; ``step`` is None where it is continuous."""

    low: float
    high: float
    step: float | None
    log: bool
    integer: bool

    def distribution(self) -> BaseDistribution:
        """See `Dimension.distribution`."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def probes(self) -> tuple[str, ...]:
        """Both ends, and what lies between them: an option that takes whole numbers only refuses that."""
        between = [] if self.integer or self.step is not None else [self.low + (self.high - self.low) * math.sqrt(0.1)]
        return tuple(dict.fromkeys(map(self.write, (self.low, self.high, *between))))

    def write(self, value: Any) -> str:
        """Twelve digits, so that the rounding error of a step is not part of the configuration."""
        return str(int(value)) if self.integer else repr(float(f"{value:.{DIGITS}g}"))

    def __str__(self) -> str:
        kind = f"{'log ' * self.log}{'int' if self.integer else 'float'}"
        step = "" if self.step in (None, 1) else f" in steps of {self.step:g}"
        return f"{self.key}: {kind} from {self.write(self.low)} to {self.write(self.high)}{step}"


@dataclass(frozen=True)
class Space:
    """All dimensions of a search, and the overrides that are the same in every trial."""

    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Iterable[Override]) -> Space:
        """Sort parsed overrides into dimensions and fixed ones.

        Raises:
            UserError: there is nothing to search, or a dimension cannot be sampled or changes no result.
        """
        written = list(overrides)
        dimensions = tuple(_dimension(override) for override in written if override.is_sweep_override())
        if not dimensions:
            raise UserError(
                "a search needs something to vary: write method=lora,hira or rank='int(interval(4,64))' "
                "or trainer.lr='tag(log, interval(1e-5,1e-2))'"
            )
        (fixed,) = expand(override for override in written if not override.is_sweep_override())
        return cls(dimensions, fixed)

    def overrides(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The overrides of the trial that sampled ``params``."""
        return (*self.fixed, *(f"{d.key}={d.write(params[d.key])}" for d in self.dimensions))

    def misfit(self, params: Mapping[str, Any]) -> str | None:
        """What of parameters that somebody else has chosen is not of this space, in words; None: nothing."""
        held = {dimension.key: dimension for dimension in self.dimensions}
        for key, value in params.items():
            if key not in held:
                return f"{key}, which is no dimension of this search: it has {', '.join(held)}"
            if not held[key].holds(value):
                return f"{key}={value!r}, which is not in {held[key].distribution()}"
        return None

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Overrides of a first point, then of one more for every other probe of every dimension."""
        first = {d.key: d.probes()[0] for d in self.dimensions}
        yield (*self.fixed, *(f"{key}={value}" for key, value in first.items()))
        for dimension in self.dimensions:
            for value in dimension.probes()[1:]:
                changed = first | {dimension.key: value}
                yield (*self.fixed, *(f"{key}={text}" for key, text in changed.items()))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Key to Optuna distribution."""
        return {dimension.key: dimension.distribution() for dimension in self.dimensions}

    def describe(self) -> list[dict[str, Any]]:
        """All dimensions as plain JSON types, to tell one space from another."""
        return [
            {**asdict(d), "values": list(d.values)} if isinstance(d, Choice) else asdict(d) for d in self.dimensions
        ]


def _dimension(override: Override) -> Dimension:
    key = override.get_key_element()
    if key.lstrip("+").split(".")[0] in UNHASHED:
        raise UserError(
            f"{override.input_line}: {key} changes no result, there is nothing to search: give it one value"
        )
    _refuse_tags(override)
    if override.is_interval_sweep():
        return _interval(key, override)
    if override.is_range_sweep():
        return _range(key, override)
    values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise UserError(f"{override.input_line}: there is nothing to choose from")
    return Choice(key, values)


def _refuse_tags(override: Override) -> None:
    sweep: Any = override.value()
    if getattr(sweep, "shuffle", False):
        raise UserError(f"{override.input_line}: a search has no order to shuffle: leave shuffle out")
    tags: set[str] = getattr(sweep, "tags", set())
    if unknown := tags - ({"log"} if override.is_interval_sweep() else set()):
        what = "the only tag is log" if override.is_interval_sweep() else "only an interval takes a tag"
        raise UserError(f"{override.input_line}: {', '.join(sorted(unknown))} is no tag that can be used here; {what}")


def _interval(key: str, override: Override) -> Number:
    sweep: Any = override.value()
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low >= high:
        raise UserError(f"{override.input_line}: write interval(low,high) with low < high")
    if log and low <= 0:
        raise UserError(f"{override.input_line}: a logarithmic interval begins above 0")
    integer = isinstance(low, int) and isinstance(high, int)
    return Number(key, low, high, 1 if integer else None, log, integer)


def _range(key: str, override: Override) -> Number:
    sweep: Any = override.value()
    # As everywhere in Hydra and Python the stop is not part of a range.
    values = sorted(sweep.range()) if sweep.step else []
    if not values:
        raise UserError(f"{override.input_line}: this range is empty")
    integer = all(isinstance(value, int) for value in values)
    return Number(key, values[0], values[-1], abs(sweep.step), False, integer)
