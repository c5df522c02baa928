"""The oldest versions that are allowed are those that the tests run with: make test-oldest."""

from __future__ import annotations

import tomllib

from support import ROOT


def test_the_oldest_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["dashboard"], *extras["slurm"]]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()[1:]
    assert lines == sorted(need.partition(",")[0].replace(">=", "==") for need in asked)
