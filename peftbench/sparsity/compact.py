"""A file format in which the zeros of a sparse adapter take one bit each.

A compact file is a safetensors file; ``sparsity 0.5`` in float32 takes 53 % of the dense bytes. For every tensor whose
bitmap and nonzero values are smaller than its dense bytes (the *packed* ones), in the order of the index:

- ``bitmap`` (uint8): one bit per entry, in row-major order; entry i is bit ``i % 8``, least significant first, of byte
  ``i // 8``. 1 means that a value is stored. The last byte of each tensor is padded with zeros, then comes the next.
- ``values.DTYPE`` (DTYPE, e.g. ``values.float32``): the stored values of all packed tensors of that dtype.

All other tensors are stored whole as ``dense.NAME``. The safetensors metadata holds ``format`` (`FORMAT`), ``index``
(JSON: tensor name → ``[DTYPE, size of dimension 0, ...]`` if packed, null if whole), ``metadata`` (JSON: the metadata
of the dense file) and ``sha256`` (over the index and all tensors). Only entries whose bits are all zero are left out:
-0.0 and NaN payloads survive, reading gives back every bit.

Run ``python -m peftbench.sparsity.compact SRC DST`` to turn a compact file, or a folder that holds one, into a standard
one for ``PeftModel.from_pretrained``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.files import replaced

FORMAT = "peftbench-compact-1"
DENSE_FILE = "adapter_model.safetensors"
COMPACT_FILE = "adapter_model.compact.safetensors"


def sparsity_of(tensors: Mapping[str, Tensor], dense_total: int | None = None) -> float:
    """The fraction of zeros in ``tensors``, as they were saved; 0 if there are no entries at all.

    Args:
        dense_total: entries before anything was cut out; what is missing counts as zeros (structured sparsity).
    """
    nonzero = sum(int(torch.count_nonzero(tensor)) for tensor in tensors.values())
    total = sum(tensor.numel() for tensor in tensors.values()) if dense_total is None else dense_total
    return 1 - nonzero / total if total else 0.0


def write_compact(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` (any shapes, dtypes and devices) to ``path``, atomically."""
    stored: dict[str, Tensor] = {}
    bitmaps, values = [torch.empty(0, dtype=torch.uint8)], defaultdict(list)
    index: dict[str, list[Any] | None] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().reshape(-1)
        bitmap, kept = _pack(flat)
        if bitmap.nbytes + kept.nbytes < flat.nbytes:
            dtype = str(flat.dtype).removeprefix("torch.")
            index[name] = [dtype, *tensor.shape]
            bitmaps.append(bitmap)
            values[dtype].append(kept)
        else:
            index[name] = None
            stored[f"dense.{name}"] = flat.view(tensor.shape).clone()
    stored["bitmap"] = torch.cat(bitmaps)
    stored |= {f"values.{dtype}": torch.cat(parts) for dtype, parts in values.items()}
    header = {"format": FORMAT, "index": json.dumps(index), "metadata": json.dumps(dict(metadata or {}))}
    _save(path, stored, header | {"sha256": _digest(header["index"], stored)})


def expand_file(source: Path, target: Path) -> None:
    """Turn the compact file ``source`` into the standard safetensors file ``target``, with its original metadata.

    Raises:
        UserError: there is no such file, it is not a compact file, or it is damaged; or ``target`` is a folder, or in
            none.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder and {source} a file: write a file's path, as {target / DENSE_FILE}")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent} for {target.name}: make it, or write another path")
    tensors, metadata = _read(source)
    _save(target, tensors, metadata or {"format": "pt"})


def compact_folder(folder: Path) -> None:
    """Replace ``adapter_model.safetensors`` in ``folder`` by its compact form, unless that would not be smaller.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    dense, compact = folder / DENSE_FILE, folder / COMPACT_FILE
    write_compact(compact, *_load(dense))
    (dense if compact.stat().st_size < dense.stat().st_size else compact).unlink()


def expand_folder(folder: Path, target: Path) -> None:
    """Copy ``folder`` to ``target`` with a standard ``adapter_model.safetensors``; ``target`` may be ``folder`` itself.

    A folder whose adapter was never compacted is copied as it is.

    Raises:
        UserError: ``folder`` holds no adapter, or a damaged one; or ``target`` is a file.
    """
    if target.is_file():
        raise UserError(f"{target} is a file and {folder} a folder: write a folder's path, which may be a new one")
    if not ((folder / COMPACT_FILE).is_file() or (folder / DENSE_FILE).is_file()):
        raise UserError(f"{folder} holds no {COMPACT_FILE} and no {DENSE_FILE}")
    if target.resolve() != folder.resolve():
        shutil.copytree(folder, target, dirs_exist_ok=True)
    if (target / COMPACT_FILE).is_file():
        expand_file(target / COMPACT_FILE, target / DENSE_FILE)
        (target / COMPACT_FILE).unlink()


def _pack(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Bitmap (uint8) and stored values of a 1-D tensor."""
    raw = flat.contiguous().view(torch.uint8).view(flat.numel(), flat.element_size())
    present = (raw != 0).any(dim=1)
    bitmap = np.packbits(present.numpy(), bitorder="little")
    return torch.from_numpy(bitmap), raw[present].reshape(-1).view(flat.dtype)


def _unpack(stored: Mapping[str, Tensor], index: Mapping[str, list[Any] | None]) -> Iterator[tuple[str, Tensor]]:
    """The inverse of `_pack` for a whole file; raises ValueError if sizes do not add up."""
    ends = dict.fromkeys(stored, 0)

    def take(key: str, count: int) -> Tensor:
        part = stored[key][ends[key] : ends[key] + count]
        if len(part) != count:
            raise ValueError(f"{key} is too short")
        ends[key] += count
        return part

    for name, layout in index.items():
        if layout is None:
            yield name, stored[f"dense.{name}"]
            continue
        dtype, *shape = layout
        size = int(np.prod(shape, dtype=np.int64))
        bits = np.unpackbits(take("bitmap", -(-size // 8)).numpy(), count=size, bitorder="little")
        kept = take(f"values.{dtype}", int(bits.sum()))
        raw = torch.zeros(size, kept.element_size(), dtype=torch.uint8)
        raw[torch.from_numpy(bits).bool()] = kept.view(torch.uint8).view(-1, kept.element_size())
        yield name, raw.view(-1).view(kept.dtype).view(shape)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, in the order and with every bit that they were written with, and metadata of a compact file."""
    stored, header = _load(path)
    if header.get("format") != FORMAT:
        raise UserError(f"{path} is not a compact adapter file (its format is not {FORMAT})")
    try:
        if _digest(header["index"], stored) != header["sha256"]:
            raise ValueError("its checksum does not match")
        return dict(_unpack(stored, json.loads(header["index"]))), json.loads(header["metadata"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}): copy or write it again") from error


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, in the order of their names, and metadata of any safetensors file."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a safetensors file ({error})") from error


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replaced(path) as temporary:
        save_file(tensors, temporary, metadata)


def _digest(index: str, stored: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the index and, in the order of their names, all stored tensors."""
    sha = hashlib.sha256(index.encode())
    for _, tensor in sorted(stored.items()):
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def main(given: list[str] | None = None) -> int:
    """``python -m peftbench.sparsity.compact SRC DST``; returns 0, or 2 with a sentence if it cannot be done."""
    print_anything()
    parser = argparse.ArgumentParser(description="Turn a compact adapter (file or folder) into a standard one.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args(given)
    try:
        (expand_folder if arguments.source.is_dir() else expand_file)(arguments.source, arguments.target)
    except UserError as error:
        print(f"peftbench: {error}", file=sys.stderr)
    except (OSError, SafetensorError) as error:
        print(f"peftbench: {arguments.target} cannot be written ({error}): write another path", file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
