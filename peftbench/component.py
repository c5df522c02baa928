"""Typed, validated building blocks that a YAML file names by ``_target_``.

Every option of an axis (a method, a dataset, a model, ...) is one subclass of `Component` plus one YAML file whose
``_target_`` is the import path of that class. Importing the class must stay cheap: torch, transformers, peft and the
like are imported inside the methods that need them, so that composing a thousand points imports none of them.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from peftbench.errors import UserError

T = TypeVar("T", bound="Component")
LETTERS = "A-Za-z0-9._-"
"""What can be part of a folder's name on every disk, and of an id in Weights & Biases."""


def _checked(label: str) -> str:
    if re.fullmatch(f"[A-Za-z0-9][{LETTERS}]*", label) is None:
        raise ValueError("only letters, digits and . _ - can be in it, and one of the first two comes first")
    return label


Label = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_checked)]
"""A name that becomes part of a folder's."""


class Checked(BaseModel):
    """A part of a configuration: frozen, typed, unknown keys are errors, and true is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take it for 1.0, and for 1.
        if any(isinstance(leaf, bool) for leaf in _leaves(value)):
            types = set(_types(cls.model_fields[str(info.field_name)].annotation))
            if types & {int, float} and not any(kind in (bool, Any) or issubclass(kind, BaseModel) for kind in types):
                raise ValueError("true and false are no numbers: write one")
        return value


def complaint(item: Any) -> str:
    """What pydantic says of one wrong value, in the words that are used here."""
    message: str = item["msg"].removeprefix("Value error, ")
    return message.replace("Extra inputs are not permitted", "there is no such option")


def _leaves(value: Any) -> Iterator[Any]:
    """A value, or what is in it."""
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item)
    else:
        yield value


def _types(annotation: Any) -> Iterator[type]:
    """The types that an annotation is made of."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from [bool] if isinstance(part, bool) else _types(part)  # Literal[True]


class Component(Checked):
    """One option of one axis."""

    unused: ClassVar[tuple[str, ...]] = ()
    """Fields that this class has from its base and no use for: other values than their defaults are refused."""

    name: Label
    """The label of this option in run ids, tables and Weights & Biases."""

    @classmethod
    def load(cls, value: Any) -> Self:
        """Build the subclass that ``value["_target_"]`` names.

        Raises:
            UserError: the mapping has no ``_target_``, or it names nothing that is a subclass of ``cls``.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict) or "_target_" not in value:
            raise UserError(f"{cls.__name__.lower()} needs a mapping with a _target_, got {value!r}")
        fields = dict(value)
        return find(cls, fields.pop("_target_")).model_validate(fields)

    def dump(self) -> dict[str, Any]:
        """The resolved options as plain JSON types, with the ``_target_`` that `load` needs."""
        kind = type(self)
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **self.model_dump(mode="json")}


def named(fields: dict[str, Any], source: str) -> dict[str, Any]:
    """``fields`` with a name: without one, the last part of ``source``, a path or a hub's id.

    >>> named({}, "FacebookAI/roberta-base"), named({"name": None}, "runs/my model/"), named({"name": "mine"}, "x")
    ({'name': 'roberta-base'}, {'name': 'my_model'}, {'name': 'mine'})
    """
    if fields.get("name") is not None:
        return fields
    last = os.path.basename(os.path.abspath(os.path.expanduser(source)))
    return {**fields, "name": re.sub(f"[^{LETTERS}]+", "_", last).lstrip("._-") or "unnamed"}


def find(base: type[T], path: str) -> type[T]:
    """Import the class at the dotted ``path`` and check that it is a ``base`` and can be made.

    Raises:
        UserError: it cannot be imported, is no ``base``, or leaves abstract methods undefined.
    """
    module, _, attribute = str(path).rpartition(".")
    if module == "__main__":
        raise UserError(f"_target_: {path} is in the script that was started, which no run has: put it into a module")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        first = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == first
        instead = f"write PYTHONPATH=FOLDER before the command, one that holds {first}, or " if missing else ""
        raise UserError(
            f"_target_: {path} cannot be imported ({error}); {instead}write the import path of a class"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"_target_: {path} is not a {base.__name__} (a subclass of {base.__module__}.{base.__name__})")
    if inspect.isabstract(found):
        open_ones = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"_target_: {path} does not define {open_ones}: write it there, or name a class that does")
    return found
