from __future__ import annotations

import pytest

from .bases import FIELDS, Base


@pytest.fixture(scope="session", params=sorted(FIELDS))
def any_base(request, tmp_path_factory) -> Base:
    return Base(request.param, tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Base:
    return Base("distilbert", tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory) -> Base:
    return Base("gpt2", tmp_path_factory.mktemp("bases"))
