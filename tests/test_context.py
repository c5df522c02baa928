import pytest

from peftbench.context import resolve_device
from peftbench.errors import UserError


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="device=auto"):
        resolve_device("cuda:7")
