"""Pretrain a small GPT-2 on IMDB text, so that adapting a causal model to another domain means something.

``python -m peftbench.pretrain --dataset-path DIR`` takes minutes on two cores and needs no hub. The same seed,
steps, versions and number of threads give the same weights. `conf/model/imdb_gpt2.yaml` reads what it writes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from peftbench.component import Checked, complaint
from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.models.selfmade import check_room, write

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftbench.data.base import Split
    from peftbench.tasks.base import Encoded

END = "<|endoftext|>"


class Recipe(Checked):
    """Everything that decides the weights, beside the text."""

    steps: int = Field(default=1500, ge=1)
    batch_size: int = Field(default=4, ge=1)
    length: int = Field(default=256, ge=4)
    """Tokens of a block, and positions of the network."""
    vocabulary: int = Field(default=4096, ge=257)
    """Tokens, of which 256 are the bytes and one is the end."""
    width: int = Field(default=192, ge=1)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    lr: float = Field(default=0.0015, gt=0, lt=10)
    seed: int = Field(default=0, ge=0, lt=2**31)
    held_out: int = Field(default=200, ge=1)
    """Reviews that are cut out of train, to measure perplexity on."""

    @model_validator(mode="after")
    def _heads_are_as_wide(self) -> Recipe:
        if self.width % self.heads:
            raise ValueError(f"--width {self.width} is no multiple of --heads {self.heads}: write one that is")
        return self


def pretrain(dataset_path: str | None, out: Path, recipe: Recipe, threads: int | None = None) -> dict[str, Any]:
    """Make tokenizer and network, train, and write both with a provenance file to ``out``; returns its contents.

    Args:
        dataset_path: a folder with IMDB's train.parquet and test.parquet, of which only train is used; None: the hub.

    Raises:
        UserError: ``out`` exists or cannot be made, there is no such number of threads, or the data cannot be read.
        ValidationError: there is no such path.
    """
    if out.exists():
        raise UserError(f"{out} is there already: delete it, or write another --out")
    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads}: write 1 or more, or leave it out")
    check_room(out)
    from peftbench.data.imdb import Imdb

    dataset = Imdb(name="imdb", path=dataset_path, validation_size=recipe.held_out, eval_size=2)
    import torch

    from peftbench.context import prepare_process
    from peftbench.tasks.causal_lm import CausalLM

    prepare_process()
    torch.set_num_threads(threads or torch.get_num_threads())
    text = dataset.read()
    train, held_out = _running(text.train), _running(text.validation)
    tokenizer = make_tokenizer(train.texts, recipe)
    task = CausalLM(recipe.length, int(tokenizer.pad_token_id), None, stride=recipe.length * 3 // 4)
    items = task.encode(train, tokenizer, train=True)
    held_out_items = task.encode(held_out, tokenizer, train=False)
    start = time.perf_counter()
    model, losses = _fit(task, items, held_out_items, tokenizer, recipe)
    provenance = {
        **_described(model, recipe, time.perf_counter() - start),
        "pretraining": {
            **recipe.model_dump(),
            "tokens_seen": recipe.steps * recipe.batch_size * recipe.length,
            "tokens_in_text": len(items.tokens),
            "held_out_perplexity": math.exp(losses[-1]),
            "held_out_unigram_perplexity": unigram_perplexity(items.tokens, held_out_items.tokens, len(tokenizer)),
            "text_fingerprint": text.fingerprint,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    write(out, model, tokenizer, provenance)
    return provenance


def _running(split: Split) -> Split:
    """Reviews as running text: what IMDB writes as HTML line breaks are newlines."""
    from dataclasses import replace

    return replace(split, labels=None, texts=[text.replace("<br />", "\n") for text in split.texts])


def make_tokenizer(texts: Any, recipe: Recipe) -> PreTrainedTokenizerBase:
    """A byte-level BPE as GPT-2's, learned from ``texts``; one special token, which ends, pads and is never met."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=recipe.vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=recipe.length, **special)


def _fit(
    task: Any, items: Encoded, held_out: Encoded, tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> tuple[PreTrainedModel, list[float]]:
    """The trained network, and its mean nats a held-out token, half-way and at the end."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    from peftbench.config import Trainer
    from peftbench.context import seed_everything
    from peftbench.measuring import precision
    from peftbench.methods.base import Attached
    from peftbench.training.loop import Loop

    shape: dict[str, Any] = {
        "n_positions": recipe.length,
        "n_embd": recipe.width,
        "n_layer": recipe.layers,
        "n_head": recipe.heads,
    }
    # No token is seen twice, so there is nothing that dropout could help against.
    plain: dict[str, Any] = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
    ends: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    seed_everything(recipe.seed)
    config = GPT2Config(vocab_size=len(tokenizer), **shape, **plain, **ends, use_cache=False)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    device = torch.device("cpu")
    trainer = Trainer(
        epochs=math.ceil(recipe.steps * recipe.batch_size / len(items)),
        max_steps=recipe.steps,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        eval_batch_size=recipe.batch_size,
        precision="auto",
        attention="sdpa",
        optimizer="adamw",
        weight_decay=0.1,
        betas=(0.9, 0.95),
        schedule="cosine",
        warmup_ratio=0.05,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        validations=2,
        select="last",
    )
    autocast = precision.autocast(device, precision.resolve("auto", device))
    loop = Loop(Attached(model), task, items, held_out, trainer, recipe.seed, device, autocast, report=_progress)
    history = loop.run().history
    return model, [report["validation/loss"] for report in history]


def _progress(step: int, total: int, figures: dict[str, float]) -> None:
    if figures:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if name.endswith("loss"))
        print(f"step {step} of {total}: {shown}", flush=True)


def unigram_perplexity(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> float:
    """Perplexity of the tokens' shares in train (one added to every count): what knows no order does not go below."""
    import numpy as np

    counts = np.bincount(train, minlength=vocabulary).astype(np.float64) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[held_out[1:]].mean()))


def _described(model: PreTrainedModel, recipe: Recipe, seconds: float) -> dict[str, Any]:
    count = sum(p.numel() for p in model.parameters())
    note = (
        f"The base model is small and not a public one: GPT-2 architecture, {count / 1e6:.1f} M parameters, pretrained "
        f"for {recipe.steps:,} steps ({recipe.steps * recipe.batch_size * recipe.length / 1e6:.1f} M tokens) on IMDB "
        "text by python -m peftbench.pretrain, with a tokenizer of its own"
    )
    return {"note": note, "parameters": count, "pretraining_seconds": round(seconds)}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    print_anything()
    options = _parser().parse_args(arguments)
    try:
        recipe = Recipe(**{name: getattr(options, name) for name in Recipe.model_fields})
        provenance = pretrain(options.dataset_path, options.out, recipe, options.threads)
    except (UserError, ValidationError) as error:
        print(f"peftbench: {_told(error) if isinstance(error, ValidationError) else error}", file=sys.stderr)
        return 2
    found = provenance["pretraining"]
    print(
        f"{options.out}: {provenance['parameters'] / 1e6:.1f} M parameters, {provenance['pretraining_seconds']} s; "
        f"perplexity on {recipe.held_out} held-out reviews {found['held_out_perplexity']:.1f} "
        f"(of unigrams: {found['held_out_unigram_perplexity']:.1f})"
    )
    return 0


def _told(error: ValidationError) -> str:
    """The first of the wrong options, as it is written here."""
    wrong = error.errors()[0]
    message = complaint(wrong).replace("null for", "leave it out for")
    names = [{"path": "dataset_path"}.get(str(part), str(part)) for part in wrong["loc"]]
    return "".join(f"--{name.replace('_', '-')} {wrong['input']}: " for name in names) + message


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftbench.pretrain", description=__doc__)
    parser.add_argument("--dataset-path", metavar="DIR", help="train.parquet and test.parquet of IMDB (default: hub)")
    parser.add_argument("--out", type=Path, default=Path("outputs/imdb_gpt2"), help="a new folder (%(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    for name, default in Recipe().model_dump().items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, type=type(default), default=default, help="(%(default)s)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
