"""Names of figures: those of the glossary, and what is meant by one that is misspelt."""

from __future__ import annotations

import re

import pytest
from support import ROOT

from peftbench.glossary import NAMES, misspelt


def test_the_names_are_those_of_the_glossary() -> None:
    table = (ROOT / "docs" / "metrics.md").read_text().partition("Step curves")[0]
    assert list(NAMES) == list(dict.fromkeys(re.findall(r"`([a-z]+/[a-z0-9_]+)`", table)))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("validation/acuracy", "validation/accuracy"),
        ("memory/train_peak_byte", "memory/train_peak_bytes"),
        ("validation/accuracy", None),
        ("speed/infer_merged_latency_ms_p95", None),
        ("mine/own_figure", None),
    ],
)
def test_a_name_that_is_nearly_one_is_misspelt(name: str, meant: str | None) -> None:
    assert misspelt(name) == meant
