"""Parameter counts and bytes against layers counted by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from peftbench.measuring.sizes import adapter_nonzero, base_bytes, file_bytes, parameter_counts
from peftbench.methods.base import Attached


class Net(nn.Module):
    """Base 10x20, adapter 3x20 with 5 zeros (None before a method is attached), head 10x2 + 2."""

    def __init__(self, *, adapter: bool = True):
        super().__init__()
        self.base = nn.Linear(20, 10, bias=False).requires_grad_(False)
        self.lora_A = nn.Parameter(torch.ones(3, 20)) if adapter else None
        if adapter:
            self.lora_A.data[0, :5] = 0
        self.classifier = nn.Linear(10, 2)


def test_adapter_and_head_are_counted_apart():
    assert parameter_counts(Attached(Net(), ("classifier",))) == {
        "params/adapter": 60,
        "params/head": 22,
        "params/trainable": 82,
        "params/total": 282,
        "params/adapter_nonzero": 55,
    }


def test_nonzero_counts_the_adapter_only():
    net = Net()
    nn.init.zeros_(net.classifier.weight)
    assert adapter_nonzero(Attached(net, ("classifier",))) == 55


@pytest.mark.parametrize("frozen", [False, True])
def test_the_base_is_everything_but_the_head(frozen: bool):
    net = Net(adapter=False).requires_grad_(not frozen)
    assert base_bytes(net, ("classifier",)) == 200 * 4
    net.base.to(torch.bfloat16)
    assert base_bytes(net, ("classifier",)) == 200 * 2


def test_copies_that_peft_keeps_of_a_trained_head_are_no_part_of_the_network():
    net = Net()
    net.original_module = nn.Linear(10, 2).requires_grad_(False)
    assert parameter_counts(Attached(net, ("classifier",)))["params/total"] == 282


@pytest.mark.parametrize("double", [False, True])
def test_four_bit_weights_are_counted_unpacked_and_weighed_packed(double: bool):
    bnb = pytest.importorskip("bitsandbytes")
    net = Net(adapter=False)
    k, d, block = 512, 256, 64
    net.base = bnb.nn.Linear4bit(k, d, bias=False, quant_type="nf4", compress_statistics=double).to("cpu")
    assert parameter_counts(Attached(net, ("classifier",)))["params/total"] == k * d + 22
    packed, blocks, table = k * d // 2, k * d // block, 16 * 4
    scales = blocks * 4
    if double:  # a byte a block, a scale for 256 of those, an offset, a code table of 256
        scales = blocks + blocks // 256 * 4 + 4 + 256 * 4
    assert base_bytes(net, ("classifier",)) == packed + table + scales


def test_saved_files_are_head_by_name_and_adapter_otherwise(tmp_path: Path):
    for name, size in {
        "adapter_model.safetensors": 100,
        "adapter_config.json": 10,
        "head.safetensors": 7,
        "README.md": 1,
    }.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert file_bytes(tmp_path) == {"size/adapter_bytes": 110, "size/head_bytes": 7}
    assert file_bytes(tmp_path / "missing") == {}
