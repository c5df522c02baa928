"""What tests share: where things are, the options there are, and generated text."""

from __future__ import annotations

import ctypes
import mmap
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from peftbench.measuring.memory import MADV_POPULATE_READ

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftbench.config import RunConfig
    from peftbench.record import Record
    from peftbench.sweep.child import OnProgress

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
SWEEPS = ROOT / "sweeps"
SHARED = ROOT.parent / "shared" / "data"

GOOD = ("good", "great", "fine", "superb", "lovely")
BAD = ("bad", "awful", "dull", "poor", "weak")


def peftbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a person types it, in the folder ``cwd``."""
    command = [sys.executable, "-m", "peftbench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def can_populate() -> bool:
    """Whether the kernel reads mapped pages in when it is asked to: Linux 5.14."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return ctypes.CDLL(None).madvise(ctypes.c_void_p(address), mmap.PAGESIZE, MADV_POPULATE_READ) == 0


needs_populate = pytest.mark.skipif(not can_populate(), reason="needs madvise(MADV_POPULATE_READ), Linux 5.14")


def options(group: str) -> list[str]:
    """Names of all options of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def pruning() -> list[str]:
    """Names of the sparsities that put zeros into the adapter."""
    return [name for name in options("sparsity") if name not in ("none", "contextual")]


def carried_out(run: RunConfig, on_progress: OnProgress = lambda *_: None) -> tuple[Record, Path]:
    """A run in this process: its record and its folder."""
    from peftbench.run import execute
    from peftbench.sweep.grid import Point
    from peftbench.sweep.outcome import blank_record

    point = Point(run, ())
    point.folder.mkdir(parents=True, exist_ok=True)
    record = blank_record(point, datetime.now(UTC))
    execute(run, point.folder, record, on_progress)
    return record, point.folder


def checkpoint(folder: Path) -> tuple[Path, PreTrainedTokenizerBase]:
    """A small BERT with random weights as ``save_pretrained`` writes it, a token a byte, and its tokenizer."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    from peftbench.models.random import Random

    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 261}
    shape = {**sizes, "layers": 2, "heads": 2, "max_positions": 64, "init_seed": 0}
    bytes_ = Random(name="tiny", architecture="bert", **shape).tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_.backend_tokenizer,
        pad_token=bytes_.pad_token,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    AutoModel.from_config(AutoConfig.for_model("bert", **sizes, **heads)).save_pretrained(folder)
    return folder, tokenizer


def write_sentences(path: Path, count: int = 160, seed: int = 0) -> Path:
    """A CSV of ``count`` distinct sentences with a label that one word of each gives away."""
    rng = random.Random(seed)
    lines = ["text,label"]
    for index in range(count):
        label = index % 2
        word = rng.choice(GOOD if label else BAD)
        fill = " ".join(rng.choice(("film", "plot", "cast", "scene", "score")) for _ in range(rng.randint(1, 6)))
        lines.append(f"{fill} {word} {index},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_corpus(folder: Path) -> Path:
    """A corpus in three splits, as WikiText-2's: ``train.parquet`` and so on."""
    import pandas as pd

    folder.mkdir()
    for name, count in (("train", 80), ("validation", 20), ("test", 20)):
        rows = [{"text": f"line {i} of a {name} text that goes on for a while"} for i in range(count)]
        pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    return folder


def noop_launcher():
    """Real processes from a fork server, in which a run is ``tests/sweep/noop.py``'s."""
    from peftbench.sweep.fork_server import ForkServer

    return ForkServer(execute="noop:execute", preload="noop")
