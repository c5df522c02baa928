"""``hydra.sweeper.where``: which points of a grid there are, as an expression over axes and options.

``not (method == 'full' and rank > 8)``. It is read as Python reads it, and carried out by the few lines below, which
know comparisons, ``and``/``or``/``not``, ``in``, arithmetic and nothing else.
"""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peftbench.config import RunConfig
from peftbench.errors import UserError

OPTION = "hydra.sweeper.where"
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class Where:
    """A condition that a point meets or not.

    Args:
        text: the expression.

    Raises:
        UserError: it is no expression, or it has something in it that is not allowed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._root = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{OPTION}: {text!r} is no expression ({error}): {HELP}") from None
        _check(self._root, text)
        self._names = list(_names(self._root))

    def keep(self, runs: Sequence[RunConfig]) -> list[bool]:
        """For each of ``runs`` whether it meets the condition. An option that only other runs have is None.

        Raises:
            UserError: it names an option that none of them has, or compares what cannot be compared.
        """
        values = [{name: _look_up(name, run) for name in self._names} for run in runs]
        for name in self._names if runs else []:
            if all(value[name] is _ABSENT for value in values):
                raise UserError(f"{OPTION}: there is no {name}; there is {', '.join(runs[0].axes)}, trainer.lr, ...")
        return [self._holds(run, value) for run, value in zip(runs, values, strict=True)]

    def meets(self, run: RunConfig) -> bool:
        """Whether one point meets the condition; an option that it does not have is None.

        Raises:
            UserError: it compares what cannot be compared.
        """
        return self._holds(run, {name: _look_up(name, run) for name in self._names})

    def _holds(self, run: RunConfig, values: dict[str, Any]) -> bool:
        try:
            return bool(_value(self._root, {k: None if v is _ABSENT else v for k, v in values.items()}))
        except (TypeError, ZeroDivisionError) as error:
            raise UserError(f"{OPTION}: {self.text!r} cannot be said of {run.run_id}: {error}") from None


HELP = "write, for example, \"not (method == 'full' and rank > 8)\""
_ABSENT = object()
_ALLOWED = (
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.BinOp,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.In,
    ast.NotIn,
    ast.Is,
    ast.IsNot,
    ast.Name,
    ast.Attribute,
    ast.Load,
    ast.Constant,
    ast.List,
    ast.Tuple,
    *ARITHMETIC,
    *ORDER,
)


def _check(root: ast.expr, text: str) -> None:
    for node in ast.walk(root):
        if not isinstance(node, _ALLOWED):
            raise UserError(
                f"{OPTION}: {text!r} has a {type(node).__name__} in it; there are axes, options, numbers, text, "
                f"comparisons, in, and, or, not, + - * / // %: {HELP}"
            )


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.List(items) | ast.Tuple(items):
            return [_value(item, names) for item in items]
        case ast.Name() | ast.Attribute():
            return names[ast.unparse(node)]
        case ast.BoolOp(ast.And(), values):
            return all(_value(value, names) for value in values)
        case ast.BoolOp(_, values):
            return any(_value(value, names) for value in values)
        case ast.UnaryOp(ast.Not(), operand):
            return not _value(operand, names)
        case ast.UnaryOp(_, operand):
            return -_value(operand, names)
        case ast.BinOp(left, kind, right):
            return ARITHMETIC[type(kind)](_value(left, names), _value(right, names))
        case ast.Compare(left, kinds, others):
            values = [_value(part, names) for part in (left, *others)]
            pairs = itertools.pairwise(values)
            return all(_holds(kind, *pair) for kind, pair in zip(kinds, pairs, strict=True))
    raise AssertionError(f"{ast.dump(node)} was let through")


def _holds(kind: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(kind, ast.In | ast.NotIn):
        return (left in right) == isinstance(kind, ast.In)
    if isinstance(kind, ast.Eq | ast.Is | ast.NotEq | ast.IsNot):
        return (left == right) == isinstance(kind, ast.Eq | ast.Is)
    # A method without a rank has none that is more than 8, nor one that is less.
    return left is not None and right is not None and ORDER[type(kind)](left, right)


def _names(node: ast.AST) -> Iterator[str]:
    """The dotted names in an expression, each whole."""
    if isinstance(node, ast.Name | ast.Attribute):
        yield ast.unparse(node)
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def _look_up(dotted: str, run: RunConfig) -> Any:
    """An axis (``rank``, ``method``) or an option by its dotted name (``trainer.lr``); `_ABSENT` if there is none."""
    if dotted in run.axes:
        return run.axes[dotted]
    found: Any = run.dump()
    for part in dotted.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found
