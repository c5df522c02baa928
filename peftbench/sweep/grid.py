"""From a command line to the points of a sweep: expanded, composed, checked, each once."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from peftbench.cli.overrides import command, rewrite
from peftbench.config import UNHASHED, RunConfig
from peftbench.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class Point:
    """One run to carry out: its configuration and the overrides that make it on the command line."""

    run: RunConfig
    overrides: tuple[str, ...]
    """What makes this point on the command line, ``-cn NAME`` included."""

    @classmethod
    def of(cls, run: RunConfig, hydra: DictConfig, overrides: Iterable[str]) -> Point:
        """The point of a sweep; what its method has no use for is no part of its command, which would refuse it."""
        return cls(run, command(hydra, (text for text in overrides if not _is_ignored(run, text))))

    @property
    def folder(self) -> Path:
        """``<output_dir>/<sweep>/<run id>``."""
        return Path(self.run.output_dir).expanduser() / self.run.sweep / self.run.run_id


def single_point(config: DictConfig, overrides: tuple[str, ...]) -> Point:
    """The point of a command without ``-m``.

    Raises:
        UserError: the configuration is wrong, or an option that was written would be ignored.
    """
    point = Point(load(config), overrides)
    _refuse_ignored(point)
    return point


def load(config: DictConfig) -> RunConfig:
    """The checked configuration of one composed point.

    Raises:
        UserError: with the dotted names of the wrong options.
    """
    named = [str(key) for key in config if key != "hydra"]
    task = OmegaConf.masked_copy(config, named) if "hydra" in config else config
    return RunConfig.load(OmegaConf.to_container(task, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


Params = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Axes of a sweep file: one grid, or a list of grids whose points follow each other."""


def grid_points(
    loader: ConfigLoaderImpl,
    master: DictConfig,
    params: Params,
    arguments: Sequence[str],
    zipped: Sequence[Sequence[str]] = (),
) -> list[Point]:
    """Every point of a sweep, in the order written, duplicates dropped.

    Args:
        params: the sweep file's axes; an axis on the command line replaces the file's in every grid.
        zipped: groups of axes that go along together instead of each with each (`expand`).

    Raises:
        UserError: an axis cannot be enumerated, or any point is wrong (all are checked before the first one runs).
    """
    from peftbench.sweep.compose import Composer

    points: dict[str, Point] = {}
    composer = Composer(loader, master)
    grids = [params] if params is None or isinstance(params, Mapping) else params
    parsed = [parse(loader, grid, arguments) for grid in grids]
    _refuse_axes_without_effect(itertools.chain.from_iterable(parsed))
    written = [expand(overrides, zipped) for overrides in parsed]
    for overrides in itertools.chain.from_iterable(written):
        config = composer(overrides)
        try:
            point = Point.of(load(config), master.hydra, overrides)
        except UserError as error:
            raise UserError(f"{error}\n  at the point {shlex.join(overrides)}") from None
        points.setdefault(point.run.run_id, point)
    if len(folders := {point.folder.parent for point in points.values()}) > 1:
        named = ", ".join(sorted(map(str, folders))[:2])
        raise UserError(f"the points of one sweep go into one folder, not into {len(folders)} ({named}, ...)")
    return list(points.values())


def meeting(points: Sequence[Point], where: str | None) -> list[Point]:
    """The points that meet the condition ``hydra.sweeper.where``; all of them without one.

    Raises:
        UserError: the condition cannot be read, or not be said of these points.
    """
    from peftbench.sweep.where import Where

    if where is None:
        return list(points)
    return list(itertools.compress(points, Where(where).keep([point.run for point in points])))


def parse(loader: ConfigLoaderImpl, params: Mapping[str, Any] | None, arguments: Sequence[str]) -> list[Override]:
    """Hydra's overrides of the sweep file and the command line, the latter winning axis by axis."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=loader)
    written = rewrite([*(f"{key}={value}" for key, value in (params or {}).items()), *arguments])
    return list({override.get_key_element(): override for override in parser.parse_overrides(written)}.values())


def expand(overrides: Iterable[Override], zipped: Sequence[Sequence[str]] = ()) -> list[tuple[str, ...]]:
    """The product of all axes, the last one fastest; axes that are zipped go along together, as one.

    Raises:
        UserError: an axis is an interval, which only a search can sample, or axes that are zipped do not match.
    """
    axes = {override.get_key_element(): _values(override) for override in overrides}
    for names in zipped:
        _zip(axes, [argument.partition("=")[0] for argument in rewrite(f"{name}=0" for name in names)])
    return [tuple(itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*axes.values())]


def _values(override: Override) -> list[tuple[str, ...]]:
    """The values of one axis, each as the overrides that it is."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [(f"{key}={override.get_value_element_as_str()}",)]
    if override.is_discrete_sweep():
        return [(f"{key}={value}",) for value in override.sweep_string_iterator()]
    raise UserError(f"{override.input_line}: an interval has no points; write {key}=range(a,b) or {key}=a,b,c")


def _zip(axes: dict[str, list[tuple[str, ...]]], names: Sequence[str]) -> None:
    """Let the first of these axes stand for all of them, value by value."""
    if missing := [name for name in names if name not in axes]:
        raise UserError(f"hydra.sweeper.zip: there is no axis {missing[0]} in this grid; it has {', '.join(axes)}")
    if len({len(axes[name]) for name in names}) > 1:
        counts = ", ".join(f"{name} has {len(axes[name])} values" for name in names)
        raise UserError(f"hydra.sweeper.zip: {counts}; write as many for each")
    first, *others = names
    together = zip(axes[first], *(axes.pop(name) for name in others), strict=True)
    axes[first] = [tuple(itertools.chain.from_iterable(values)) for values in together]


def _refuse_axes_without_effect(overrides: Iterable[Override]) -> None:
    """What is not part of a run's identity cannot be an axis: of all its values one point would be made."""
    for override in overrides:
        key = override.get_key_element().lstrip("+")
        if override.is_sweep_override() and key.partition(".")[0] in UNHASHED:
            raise UserError(f"{override.input_line}: {key} makes no other point, so give it one value")


def _refuse_ignored(point: Point) -> None:
    if any(_is_ignored(point.run, text) for text in point.overrides):
        what = "rank" if point.run.rank is None else "alpha"
        # An alpha is not ignored but a conflict, which the same sentence is to mend.
        ignored = [t for t in point.overrides if _is_ignored(point.run, t) or _name(t) == "rank.alpha"]
        raise UserError(f"method={point.run.method.name} has no {what}: leave {' and '.join(ignored)} out")


def _name(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _is_ignored(run: RunConfig, override: str) -> bool:
    name = _name(override)
    if run.rank is None:
        return name.partition(".")[0] == "rank"
    return name == "rank.alpha_ratio" and not run.method.uses_alpha
