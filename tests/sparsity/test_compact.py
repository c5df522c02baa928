import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from peftbench.errors import UserError
from peftbench.sparsity import compact
from peftbench.sparsity.compact import (
    COMPACT_FILE,
    DENSE_FILE,
    compact_folder,
    expand_file,
    expand_folder,
    sparsity_of,
    write_compact,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]


def adapter(ratio=0.5, layers=6, shape=(8, 384), dtype=torch.float32):
    """Tensors named and shaped as those of a LoRA over 6 layers of width 384."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(layers):
        for factor, size in (("lora_A", shape), ("lora_B", shape[::-1])):
            tensor = torch.randn(size, generator=generator)
            gone = torch.randperm(tensor.numel(), generator=generator)[: round(ratio * tensor.numel())]
            tensor.view(-1)[gone] = 0
            name = f"base_model.model.bert.encoder.layer.{layer}.attention.self.query.{factor}.weight"
            tensors[name] = tensor.to(dtype)
    return tensors


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same_bits(one, other):
    return sorted(one) == sorted(other) and all(
        one[n].shape == other[n].shape and one[n].dtype == other[n].dtype and torch.equal(bits(one[n]), bits(other[n]))
        for n in one
    )


def expanded(path):
    """The tensors of a compact file."""
    with tempfile.TemporaryDirectory() as folder:
        expand_file(path, Path(folder) / "plain")
        return load_file(Path(folder) / "plain")


@st.composite
def tensor_dicts(draw):
    tensors = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=6).filter(str.isprintable), unique=True, max_size=4)):
        shape = draw(st.lists(st.integers(0, 7), max_size=3))
        dtype = draw(st.sampled_from(DTYPES))
        raw = torch.randint(0, 256 if dtype != torch.bool else 2, (*shape, dtype.itemsize), dtype=torch.uint8)
        raw[torch.rand(shape) < draw(st.floats(0, 1))] = 0
        tensors[name] = raw.reshape(-1).view(dtype).view(shape)
    return tensors


@settings(max_examples=80, deadline=None)
@given(tensors=tensor_dicts())
def test_any_tensors_come_back_bit_by_bit(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("compact") / "a.safetensors"
    write_compact(path, tensors)
    assert same_bits(expanded(path), tensors)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_the_awkward_ones(tmp_path):
    odd = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45, 0.0, 0.0, 0.0, 0.0] * 3)
    odd.view(torch.int32)[2] = 0x7FC01234  # a NaN with a payload
    tensors = {
        "odd": odd.view(3, 9),
        "zeros": torch.zeros(8, 384),
        "ones": torch.ones(8, 384),
        "empty": torch.empty(0, 5),
        "scalar": torch.tensor(0.0),
        "half": torch.tensor([0.0, 1.5] * 50, dtype=torch.bfloat16),
        "strided": torch.eye(9)[:, ::2],
        "parameter": torch.nn.Parameter(torch.eye(9)),
        "bitmap": torch.eye(9),
    }
    path = tmp_path / "a.safetensors"
    write_compact(path, tensors)
    assert same_bits(expanded(path), tensors)


def test_the_layout_is_the_documented_one(tmp_path):
    path = tmp_path / "a.safetensors"
    sparse = torch.zeros(2, 5)
    sparse[0, 1], sparse[1, 4] = 3.0, -1.0
    write_compact(path, {"s": sparse, "d": torch.ones(2)}, {"format": "pt"})
    with safe_open(path, "pt") as file:
        stored, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    assert stored["bitmap"].tolist() == [0b00000010, 0b00000010]  # entries 1 and 9
    assert stored["values.float32"].tolist() == [3.0, -1.0]
    assert stored["dense.d"].tolist() == [1.0, 1.0]
    assert json.loads(metadata["index"]) == {"s": ["float32", 2, 5], "d": None}
    assert json.loads(metadata["metadata"]) == {"format": "pt"}


@pytest.mark.parametrize(("ratio", "share"), [(0.5, 0.55), (0.7, 0.35), (0.9, 0.15)])
def test_what_it_saves(tmp_path, ratio, share):
    tensors = adapter(ratio)
    write_compact(tmp_path / "c", tensors)
    assert (tmp_path / "c").stat().st_size <= share * sum(t.nbytes for t in tensors.values())


def test_a_dense_adapter_stays_dense(tmp_path):
    tensors = adapter(0.0)
    save_file(tensors, tmp_path / DENSE_FILE)
    compact_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DENSE_FILE]
    expand_folder(tmp_path, tmp_path / "copy")
    assert same_bits(load_file(tmp_path / "copy" / DENSE_FILE), dict(sorted(tensors.items())))


def test_a_folder_there_and_back(tmp_path):
    source, target = tmp_path / "adapter", tmp_path / "expanded"
    source.mkdir()
    tensors = adapter()
    save_file(tensors, source / DENSE_FILE, {"format": "pt", "who": "me"})
    (source / "adapter_config.json").write_text("{}")
    compact_folder(source)
    assert sorted(path.name for path in source.iterdir()) == ["adapter_config.json", COMPACT_FILE]
    expand_folder(source, target)
    assert sorted(path.name for path in target.iterdir()) == ["adapter_config.json", DENSE_FILE]
    expand_folder(source, source)
    for folder in (source, target):
        assert same_bits(load_file(folder / DENSE_FILE), dict(sorted(tensors.items())))
        with safe_open(folder / DENSE_FILE, "pt") as file:
            assert file.metadata() == {"format": "pt", "who": "me"}


def damaged(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    if how == "flipped":
        data[-5] ^= 1
    if how == "garbage":
        data = b"not a safetensors file"
    if how == "void":
        data = b""
    if how == "index":
        data = data.replace(b"float32", b"float16", 1)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "flipped", "garbage", "void", "index"])
def test_a_damaged_file_is_one_clear_sentence(tmp_path, how):
    path = tmp_path / "a.safetensors"
    write_compact(path, adapter())
    damaged(path, how)
    with pytest.raises(UserError) as error:
        expanded(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def rewritten(path, **changes):
    """The same file with other metadata and a checksum that fits."""
    stored, header = compact._load(path)
    header |= changes
    save_file(stored, path, header | {"sha256": compact._digest(header["index"], stored)})


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{",
        '{"s": ["float32", 999]}',
        '{"s": ["float99", 9]}',
        '{"s": ["float32", -9]}',
        '{"t": null}',
        '{"s": 3}',
    ],
)
def test_an_index_that_does_not_fit_is_said(tmp_path, index):
    path = tmp_path / "a.safetensors"
    write_compact(path, {"s": torch.eye(9)})
    rewritten(path, index=index)
    with pytest.raises(UserError, match="is damaged"):
        expanded(path)


def test_other_files_are_said_to_be_other_files(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "dense")
    with pytest.raises(UserError, match="not a compact adapter file"):
        expanded(tmp_path / "dense")
    with pytest.raises(UserError, match="there is no file"):
        expanded(tmp_path / "missing")
    with pytest.raises(UserError, match="there is no file"):
        compact_folder(tmp_path)
    with pytest.raises(UserError, match="holds no"):
        expand_folder(tmp_path, tmp_path / "to")


def test_counting():
    tensors = {"a": torch.tensor([[0.0, -0.0], [1.0, float("nan")]]), "b": torch.zeros(4), "e": torch.empty(0)}
    assert sparsity_of(tensors) == 0.75
    assert sparsity_of(tensors, dense_total=16) == 0.875
    assert sparsity_of({}) == 0.0


def test_the_command_expands_files_and_folders(tmp_path):
    tensors = adapter(layers=1)
    save_file(tensors, tmp_path / DENSE_FILE)
    compact_folder(tmp_path)
    shutil.copy(tmp_path / COMPACT_FILE, tmp_path / "bad")
    damaged(tmp_path / "bad", "truncated")
    command = [sys.executable, "-m", "peftbench.sparsity.compact"]
    subprocess.run([*command, tmp_path, tmp_path / "out"], check=True)
    expand_file(tmp_path / COMPACT_FILE, tmp_path / "single")
    assert (tmp_path / "out" / DENSE_FILE).read_bytes() == (tmp_path / "single").read_bytes()
    failed = subprocess.run([*command, tmp_path / "bad", tmp_path / "x"], check=False, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "cannot be read" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (COMPACT_FILE, "folder", "folder is a folder and "),
        (COMPACT_FILE, "no/such/x.safetensors", "no/such for x.safetensors: make it"),
        (COMPACT_FILE, "file/x", "file for x: make it"),
        (".", "file", "write a folder's path"),
        (".", "file/x", "x cannot be written ("),
        ("nowhere", "x", "there is no file"),
    ],
)
def test_a_path_that_cannot_be_is_one_sentence(tmp_path, capsys, source, target, said):
    adapters, other = tmp_path / "adapter", tmp_path / "other"
    adapters.mkdir()
    (other / "folder").mkdir(parents=True)
    (other / "file").touch()
    write_compact(adapters / COMPACT_FILE, {"s": torch.eye(9)})
    assert compact.main([str(adapters / source), str(other / target)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("peftbench: ")
    assert error.count("\n") == 1
    assert sorted(path.name for path in other.rglob("*")) == ["file", "folder"], "nothing is left there"
