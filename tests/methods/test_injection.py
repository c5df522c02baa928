"""Which layers are adapted, and what is said of names that are none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from peftbench.errors import UserError
from peftbench.methods.injection import find_sites
from peftbench.models.base import Loaded


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2)
        self.classifier = nn.Linear(2, 2)

    def get_output_embeddings(self) -> None:
        return None


def loaded(*targets: str) -> Loaded:
    network: Any = Net()
    return Loaded(network, ("classifier",), targets, {})


def test_names_are_of_the_model_or_of_the_method() -> None:
    assert find_sites(loaded("query"), "attention").layers == ("query",)
    assert find_sites(loaded("query"), ["value"]).layers == ("value",)
    assert find_sites(loaded("query"), "all-linear").layers == ("query", "value")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            "attention",
            "model.targets: there is no layer named q_lin in Net; write null or a list out of [query",
        ),
        (["norm"], "method.targets: there is no layer named norm in Net; write all-linear or a list out of [query"),
        (["classifier"], "method.targets: there is no layer named classifier in Net; write all-linear or"),
    ],
)
def test_a_name_that_is_no_layer_is_said_with_the_option_it_came_from(targets, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        find_sites(loaded("q_lin"), targets)


@pytest.mark.parametrize("targets", ["all-linear", "attention", ["norm"]])
def test_a_network_without_linear_layers_is_said_to_have_none(targets) -> None:
    """I-BERT's are of a class of its own."""
    bare = loaded("query")
    del bare.model.query, bare.model.value
    with pytest.raises(UserError, match=r"there is no linear layer to adapt in Net; write method=full"):
        find_sites(bare, targets)
    if targets == "all-linear":
        with pytest.raises(UserError, match="there is no linear layer"):
            find_sites(bare, targets, linear_only=False)
    assert find_sites(bare, ["norm"], linear_only=False).layers == ("norm",)


def test_a_network_without_default_targets_is_adapted_by_name(tmp_path) -> None:
    """Only ``attention`` needs to know what they are."""
    nobody = replace(loaded("query"), targets=())
    with pytest.raises(UserError, match=r"write method\.targets=all-linear or a list out of"):
        find_sites(nobody, "attention")
    assert find_sites(nobody, "all-linear") == find_sites(loaded("query"), "all-linear")
    assert find_sites(nobody, ["query"]) == find_sites(loaded("query"), "attention")
