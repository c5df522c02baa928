"""Options of the sweeper (``conf/hydra/sweeper``), checked: those of a grid, and what a search has of them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from omegaconf import OmegaConf
from pydantic import Field, ValidationError, field_validator

from peftbench.component import Checked, complaint
from peftbench.errors import UserError
from peftbench.sweep.where import HELP

INSTEAD = {
    "where": HELP,
    "zip": "write axes that go along together, [method,trainer.lr], or several such groups",
    "params": "leave it out and write axes as they are, method=lora,hira seed=0,1",
}
"""What to write where the type of a value is wrong."""


class SweeperOptions(Checked):
    """What grids and searches have."""

    params: Any
    where: str | None = None

    @classmethod
    def load(cls, mapping: Mapping[str, Any]) -> Self:
        """Check the sweeper's options.

        Raises:
            UserError: one line per wrong option, with its dotted name.
        """
        plain = OmegaConf.to_container(OmegaConf.create(dict(mapping)), resolve=True)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise UserError("\n".join(dict.fromkeys(_explain(item, plain) for item in error.errors()))) from None


class GridOptions(SweeperOptions):
    """Which points a grid has, besides the axes on the command line."""

    params: dict[str, Any] | list[dict[str, Any]] | None = None
    zip: list[list[str]] = Field(default_factory=list)

    @field_validator("zip", mode="before")
    @classmethod
    def _one_group_or_several(cls, value: Any) -> Any:
        # One group of axes may be written without the list around it.
        one = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
        return [] if value is None else [value] if one else value


def _explain(item: Any, whole: Any) -> str:
    option = str(item["loc"][0]) if item["loc"] else ""
    if option in INSTEAD and item["type"] != "value_error":
        return f"hydra.sweeper.{option}: {INSTEAD[option]} (got {whole[option]!r})"
    name = ".".join(["hydra.sweeper", *map(str, item["loc"])])
    given = item.get("input")
    shown = "" if isinstance(given, dict | list) or item["type"] == "value_error" else f" (got {given!r})"
    return f"{name}: {complaint(item)}{shown}"
