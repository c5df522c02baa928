"""Tests of peftbench.tasks; a package, so that its conftest does not hide the one above."""
