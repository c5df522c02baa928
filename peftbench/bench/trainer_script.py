"""Fine-tune a sequence classifier with transformers' Trainer and PEFT: the peer of `peftbench.bench.suite.sweep`.

Written as its users write it, at the libraries' defaults, and without anything of peftbench:

    python trainer_script.py --model DIR --data DIR --output DIR --method lora --lr 0.003 --seed 0
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from peft import HiraConfig, LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

METHODS = ("lora", "qlora", "hira")


def load_model(args: argparse.Namespace) -> Any:
    """The base network with its adapter."""
    extra: dict[str, Any] = {}
    if args.method == "qlora":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["classifier"],
        )
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2, **extra)
    if args.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    shared: dict[str, Any] = {"task_type": TaskType.SEQ_CLS, "r": args.rank, "target_modules": args.targets}
    config = HiraConfig(**shared) if args.method == "hira" else LoraConfig(lora_alpha=2 * args.rank, **shared)
    return get_peft_model(model, config)


def main() -> None:
    """Train for one epoch, predict the validation split, write ``result.json``."""
    args = parse()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def tokenize(batch: dict[str, list[str]]) -> Any:
        padding = "max_length" if args.pad_to_max else False
        return tokenizer(batch["sentence"], truncation=True, max_length=args.max_length, padding=padding)

    files = {"train": f"{args.data}/train.parquet", "validation": f"{args.data}/validation.parquet"}
    data = load_dataset("parquet", data_files=files).map(tokenize, batched=True)
    model = load_model(args)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=args.output,
            num_train_epochs=1,
            learning_rate=args.lr,
            seed=args.seed,
            report_to="none",
            **({"per_device_train_batch_size": args.batch_size} if args.batch_size else {}),
            bf16=args.bf16,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=data["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trained = trainer.train()
    trainer.save_model()
    predicted = trainer.predict(data["validation"])
    guesses = np.argmax(predicted.predictions, axis=-1)
    result = {
        "accuracy": float((guesses == predicted.label_ids).mean()),
        "correct": (guesses == predicted.label_ids).astype(int).tolist(),
        "train_seconds": trained.metrics["train_runtime"],
        "steps": trained.global_step,
        "trainable": model.num_parameters(only_trainable=True),
        "threads": torch.get_num_threads(),
    }
    (Path(args.output) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--data", required=True, help="folder with train.parquet and validation.parquet")
    parser.add_argument("--output", required=True, help="folder")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--targets", nargs="+", default=["query", "value"])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--pad-to-max", action="store_true", help="instead of padding each batch to its longest item")
    parser.add_argument("--batch-size", type=int, help="default: the Trainer's own")
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
