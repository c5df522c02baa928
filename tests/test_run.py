"""One run, end to end: what its files say is what its record says, and a seed decides it all."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from support import ROOT, carried_out, checkpoint, options, pruning, write_corpus
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)

from peftbench import run as running
from peftbench.bench.contenders import ready
from peftbench.bench.workloads import TINY, Case
from peftbench.context import Context
from peftbench.data.base import Split, TextData
from peftbench.data.text import Text
from peftbench.errors import Pruned, UserError
from peftbench.inputs import Data, prepare
from peftbench.measuring.inference import Inference
from peftbench.methods.base import Attached
from peftbench.run import build, evaluate, load
from peftbench.sparsity.contextual_blocks import Attention, FeedForward
from peftbench.sparsity.contextual_hook import ContextualHook
from peftbench.sparsity.contextual_linear import Slicing
from peftbench.tracking.base import Tracker
from peftbench.training.loop import Loop

CONTEXTUAL = ("sparsity=contextual", "sparsity.ratio=0.25", "sparsity.layers=[0]", "sparsity.dense_end=0")
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MEASURED = ("speed/", "time/", "memory/", "energy/")


def test_quality_is_recomputed_from_the_predictions_file(tiny_run) -> None:
    record, folder = carried_out(tiny_run("trainer.max_steps=12"))
    table = pd.read_parquet(folder / "predictions.parquet")
    assert len(table) == record.data["splits"]["evaluation"]["size"]
    logits = table[["logit_0", "logit_1"]].to_numpy(dtype=np.float64)
    assert (table.prediction == logits.argmax(1)).all()
    nll = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(table)), table.label]
    expected = {
        "quality/accuracy": accuracy_score(table.label, table.prediction),
        "quality/f1": f1_score(table.label, table.prediction, average="macro"),
        "quality/mcc": matthews_corrcoef(table.label, table.prediction),
        "quality/loss": nll.mean(),
    }
    assert {key: record.metrics[key] for key in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_record_says_what_a_layer_computes_in(tiny_run, precision: str) -> None:
    record, _ = carried_out(tiny_run(f"trainer.precision={precision}", "trainer.max_steps=1", "device=cpu"))
    assert record.environment["hidden_states"] == precision
    assert record.environment["last_layer"] == "first token"


def test_a_tokenizer_of_another_network_is_said_before_training(tiny_run, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "mixed"
    AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=90, **SHAPE)).save_pretrained(folder)
    tiny_run().model.tokenizer().save_pretrained(folder)
    monkeypatch.setattr(Loop, "run", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"model=bert: the tokenizer gives token \d+, and the network has 90 of them"):
        carried_out(tiny_run("model=bert", f"model.path={folder}"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("task", ["classes", "language"])
def test_a_pad_token_that_the_network_has_not_is_said_before_training(
    tiny_run, tmp_path, monkeypatch, architecture: str, task: str
) -> None:
    """Added to the tokenizer alone it would be met where a batch is padded first, perhaps after training."""
    folder = tmp_path / "padded"
    tokenizer = tiny_run().model.tokenizer()
    shape = {**SHAPE, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape)).save_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    corpus = ("dataset=wikitext2", f"dataset.path={write_corpus(tmp_path / 'corpus')}") if task == "language" else ()
    monkeypatch.setattr(Loop, "run", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(
        UserError, match=r"model=padded: the tokenizer pads with token 261 \(<pad>\), and the network has"
    ):
        carried_out(tiny_run(*corpus, "model=pretrained", f"model.path={folder}"))


def test_a_data_set_class_whose_splits_overlap_is_refused(tiny_run, monkeypatch) -> None:
    text = Split("all", [f"text {i}" for i in range(40)], [i % 2 for i in range(40)], range(40))
    monkeypatch.setattr(Text, "read", lambda _: TextData(text, text, text, ("no", "yes"), "0"))
    with pytest.raises(UserError, match="dataset=text: 40 texts are in train and in validation too"):
        carried_out(tiny_run())


def test_a_run_on_pairs_predicts_what_peft_and_transformers_do(tiny_run, tmp_path) -> None:
    """With every change that a run makes to a network in place, and token types passed through all of them."""
    base, tokenizer = checkpoint(tmp_path / "base")
    table = pd.DataFrame({"a": [f"text {i}" for i in range(90)], "b": [f"and {i * i}" for i in range(90)]})
    table.assign(label=table.index % 2).to_csv(tmp_path / "pairs.csv", index=False)
    pairs = (f"dataset.path={tmp_path / 'pairs.csv'}", "dataset.text_column=[a,b]")
    record, folder = carried_out(tiny_run("model=pretrained", f"model.path={base}", *pairs, "method=lora", *CONTEXTUAL))
    found = pd.read_parquet(folder / "predictions.parquet")
    assert len(found) == record.data["splits"]["evaluation"]["size"] == 18
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    network.load_state_dict(load_file(folder / "adapter" / "head.safetensors"), strict=False)
    network = PeftModel.from_pretrained(network, folder / "adapter").eval()
    items = table.loc[found.id]
    inputs = tokenizer(items.a.tolist(), items.b.tolist(), padding=True, return_tensors="pt")
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        logits = network(**inputs).logits.numpy()
    np.testing.assert_allclose(found[["logit_0", "logit_1"]].to_numpy(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", sorted(options("method")))
def test_every_method_trains_in_bf16_as_in_fp32(tiny_run, method: str) -> None:
    """Many computers choose bf16 by themselves, and what is fast there is another code than what is tested in fp32."""
    losses = [
        [report["train/loss"] for report in carried_out(run)[0].history if "train/loss" in report]
        for run in (tiny_run(f"method={method}", f"trainer.precision={name}") for name in ("bf16", "fp32"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0]


@pytest.mark.parametrize("method", ["lora", "sparse_lora", "qlora", "hira", "full"])
def test_the_same_seed_gives_the_same_record_twice(tiny_run, method: str) -> None:
    def figures(seed: int) -> tuple[dict, str]:
        record, folder = carried_out(tiny_run(f"method={method}", f"seed={seed}"))
        kept = {key: value for key, value in record.metrics.items() if not key.startswith(MEASURED)}
        return {"metrics": kept, "history": record.history}, (folder / "predictions.parquet").read_bytes().hex()

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


@pytest.mark.parametrize("sparsity", pruning())
@pytest.mark.parametrize("method", ["sparse_lora", "qlora", "hira", "hira method.quantize=nf4"])
def test_every_hybrid_runs_and_reaches_its_target(tiny_run, method: str, sparsity: str) -> None:
    written = [part if "=" in part else f"method={part}" for part in method.split()]
    record, folder = carried_out(tiny_run(*written, f"sparsity={sparsity}", "trainer.max_steps=8", "rank=4"))
    assert record.metrics["sparsity/target"] == 0.5
    assert any("so write sparsity.interval=1 instead of 10" in note for note in record.data["notes"])
    assert record.metrics["sparsity/achieved"] == pytest.approx(0.5, abs=0.01)
    saved = {path.name for path in (folder / "adapter").iterdir()}
    kind = "adapter_model.safetensors" if sparsity == "structured" else "adapter_model.compact.safetensors"
    assert kind in saved


def test_a_disk_for_temporary_files_without_room_loses_no_training(tiny_run, tmp_path, monkeypatch) -> None:
    held = running.save

    def save(*arguments) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
            held(*arguments)

    monkeypatch.setattr(running, "save", save)
    record, folder = carried_out(tiny_run("method=sparse_lora", "sparsity=magnitude", "trainer.max_steps=2"))
    assert "sparsity/achieved" in record.metrics
    assert {path.name for path in folder.iterdir()} == {"adapter", "predictions.parquet"}


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_a_language_model_is_calibrated_on_a_few_windows_of_a_batch(tiny_run, tmp_path, architecture: str) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    data = (f"dataset.path={corpus}", "dataset=wikitext2", "dataset.max_length=16", "trainer.batch_size=16")
    sparse = ("sparsity=contextual", "sparsity.output_tokens=sparse", "sparsity.ratio=0.1", "model.layers=3")
    record, _ = carried_out(tiny_run(f"model.architecture={architecture}", *data, *sparse))
    assert record.decisions["sparsity"]["sensitivities"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_base_computed_sparsely_leaves_a_plain_adapter(tiny_run, method: str) -> None:
    plain, _ = carried_out(tiny_run(f"method={method}"))
    run = tiny_run(f"method={method}", *CONTEXTUAL)
    record, folder = carried_out(run)
    again, _ = carried_out(run)
    assert run.run_id.startswith(f"{method}-text-tiny-r8-contextual0.25-")
    assert record.decisions == again.decisions
    assert record.history == again.history
    assert not {"sparsity/achieved", "sparsity/target"} & set(record.metrics), "the adapter is dense"
    for same in ("params/adapter", "params/adapter_nonzero", "size/base_bytes"):
        assert record.metrics[same] == plain.metrics[same]
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    never, _ = carried_out(tiny_run(f"method={method}", *CONTEXTUAL, "sparsity.dense_start=0.99"))
    assert never.history == plain.history
    assert never.metrics["flops/frozen_linear_fraction"] == 1
    decided = record.decisions["sparsity"]
    # The first two of six steps are dense; batches differ in their tokens: the fraction is near this one, not just it.
    left_out = decided["left_out_of_a_sparse_step"] * (1 - decided["dense_steps"] / 6)
    assert decided["dense_steps"] == 2
    assert left_out > 0.16
    assert record.metrics["flops/frozen_linear_fraction"] == pytest.approx(1 - left_out, abs=0.04)
    assert record.metrics["flops/train_per_token"] < 0.9 * plain.metrics["flops/train_per_token"]


@pytest.mark.parametrize("sparse", [(), CONTEXTUAL])
def test_inference_is_timed_on_the_network_as_transformers_has_it(tiny_run, monkeypatch, sparse) -> None:
    """Nothing of what makes training steps fast is in it, nor are the copies that sparse steps read kept till then."""
    phases = []

    def looking(phase: str, model: nn.Module) -> None:
        ours = ("peftbench.training.frozen", "peftbench.training.last", "peftbench.training.one", "peftbench.sparsity")
        modules = [] if phase == "evaluation" else model.modules()
        mixed_in = [m for m in modules if any(kind.__module__.startswith(ours) for kind in type(m).mro())]
        hooks = [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]
        gc.collect()
        kept = [thing for thing in gc.get_objects() if type(thing) in (Slicing, FeedForward, Attention)]
        phases.append((phase, mixed_in, hooks, kept))

    def evaluating(context: Context, data: Data, attached: Attached) -> None:
        looking("evaluation", attached.model)
        evaluate(context, data, attached)

    def timing(model: nn.Module, *rest: Any, prefix: str, **named: Any) -> Inference:
        looking(prefix, model)
        return Inference({}, {})

    monkeypatch.setattr("peftbench.run.evaluate", evaluating)
    monkeypatch.setattr("peftbench.run.profile_inference", timing)
    carried_out(tiny_run(*sparse, "trainer.precision=bf16", "device=cpu"))
    assert phases == [(phase, [], [], []) for phase in ("evaluation", "speed/infer", "speed/infer_merged")]


def test_what_the_data_hold_is_of_no_method(tiny_run, monkeypatch) -> None:
    size, held = 200 * 2**20, []

    def reading(context: Context) -> Data:
        held.append(torch.ones(size, dtype=torch.uint8))
        return prepare(context)

    monkeypatch.setattr("peftbench.run.prepare", reading)
    record, _ = carried_out(tiny_run("trainer.max_steps=2", "device=cpu"))
    assert record.metrics["memory/train_peak_bytes"] < size / 2


def test_calibration_leaves_the_random_number_generators_alone(tiny_run, monkeypatch) -> None:
    calibrate, calls = ContextualHook.calibrate, []

    def measure_only(hook: ContextualHook) -> None:
        calibrate(hook)
        calls.append(hook)
        for block in hook.blocks:
            block.ratio = 0.0

    monkeypatch.setattr(ContextualHook, "calibrate", measure_only)
    measured, _ = carried_out(tiny_run(*CONTEXTUAL))
    assert calls
    assert measured.history == carried_out(tiny_run())[0].history


def test_methods_of_one_seed_start_from_the_same_base_and_head(tiny_run) -> None:
    records = [carried_out(tiny_run(f"method={method}"))[0] for method in ("lora", "hira", "full")]
    assert len({json.dumps({**r.base, "targets": None}) for r in records}) == 1
    assert len({r.data["fingerprint"] for r in records}) == 1
    assert len({r.metrics["params/head"] for r in records}) == 1


def test_every_figure_is_in_the_glossary_and_the_other_way_round(tiny_run, tmp_path) -> None:
    known = set(re.findall(r"`([a-z]+/[a-z0-9_]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    # A curve or a column, not among a record's metrics.
    known -= {name for name in known if name.startswith(("train/", "validation/", "selection/"))}
    record, _ = carried_out(tiny_run("method=sparse_lora", "trainer.max_steps=20"))
    assert set(record.metrics) <= known
    contextual, _ = carried_out(tiny_run(*CONTEXTUAL))
    assert set(contextual.metrics) <= known
    known -= set(contextual.metrics) - set(record.metrics)
    elsewhere = {"quality/perplexity", "quality/mlm_loss", "quality/mlm_pseudo_perplexity", "energy/train_j"}
    assert known - set(record.metrics) == elsewhere


def test_gradient_checkpointing_changes_no_figure(tiny_run) -> None:
    plain, _ = carried_out(tiny_run("method=lora"))
    saving, _ = carried_out(tiny_run("method=lora", "trainer.gradient_checkpointing=true"))
    assert saving.metrics["quality/loss"] == pytest.approx(plain.metrics["quality/loss"], rel=1e-4)
    assert saving.metrics["flops/train_per_token"] > plain.metrics["flops/train_per_token"]


def test_recomputation_leaves_out_the_gradient_of_frozen_embeddings() -> None:
    """It costs the first layer the gradients of its input through q, k and v, and the one of k."""
    items, length, rank, width = 3, 7, 4, SHAPE["hidden_size"]

    def step(recompute) -> tuple[float, list[torch.Tensor], int]:
        torch.manual_seed(0)
        config = AutoConfig.for_model("bert", vocab_size=50, attn_implementation="eager", **SHAPE)
        lora = LoraConfig(r=rank, target_modules=["query", "value"], init_lora_weights=False)
        model = get_peft_model(AutoModelForSequenceClassification.from_config(config), lora).train()
        recompute(model)
        with FlopCounterMode(display=False) as counter:
            loss = model(input_ids=torch.randint(50, (items, length)), labels=torch.tensor([0, 1, 1])).loss
            loss.backward()
        return loss.item(), [p.grad for p in model.parameters() if p.requires_grad], counter.get_total_flops()

    (loss, gradients, count), (expected, others, more) = (
        step(recompute) for recompute in (running._recompute, lambda model: model.gradient_checkpointing_enable())
    )
    assert loss == expected
    assert all(torch.equal(*pair) for pair in zip(gradients, others, strict=True))
    tokens = items * length
    assert more - count == 2 * tokens * (3 * width**2 + 2 * rank * width + length * width)


def test_the_validation_that_ends_a_run_is_tracked(tiny_run) -> None:
    """As where a search prunes: what it was pruned by is in the curve."""
    seen: list[dict[str, Any]] = []

    class Recorder(Tracker):
        def log(self, step: int, metrics: Mapping[str, Any]) -> None:
            seen.append({"step": step, **metrics})

    def pruning(phase: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        if any(name.startswith("validation/") for name in figures or {}):
            raise Pruned("enough")

    run = tiny_run().model_copy(update={"tracker": Recorder(name="recorder")})
    with pytest.raises(Pruned):
        carried_out(run, pruning)
    assert "validation/accuracy" in seen[-1]


def test_language_models_get_their_own_figures(tiny_run, tmp_path: Path) -> None:
    data = [f"dataset.path={write_corpus(tmp_path / 'corpus')}", "dataset=wikitext2", "dataset.max_length=32"]
    causal, folder = carried_out(tiny_run(*data, "model.architecture=gpt2"))
    masked, other = carried_out(tiny_run(*data, "model.architecture=distilbert"))
    assert "quality/perplexity" in causal.metrics
    assert "perplexity: windows of 32 tokens move on by 16 (dataset.stride)" in causal.data["notes"]
    assert "quality/mlm_loss" not in causal.metrics
    assert "quality/mlm_loss" in masked.metrics
    assert "quality/perplexity" not in masked.metrics
    assert causal.metrics["quality/perplexity"] == pytest.approx(np.exp(causal.metrics["quality/loss"]), rel=1e-6)
    saved = [json.loads((one / "adapter" / "adapter_config.json").read_text()) for one in (folder, other)]
    assert [config["task_type"] for config in saved] == ["CAUSAL_LM", None]


def test_the_base_of_a_masked_language_model_is_quantized_again_by_what_the_record_says(tiny_run, tmp_path) -> None:
    """Its head, of which nothing is trained, is dense as in the run."""
    base, _ = checkpoint(tmp_path / "base")
    tiny_run("model.vocab_size=261").model.tokenizer().save_pretrained(base)  # with a token that masks
    data = [f"dataset.path={write_corpus(tmp_path / 'corpus')}", "dataset=wikitext2", "dataset.max_length=32"]
    record, folder = carried_out(tiny_run(*data, "model=pretrained", f"model.path={base}", "method=qlora"))
    record.write(folder)
    again = BitsAndBytesConfig(**json.loads((folder / "record.json").read_text())["base"]["quantization"])
    network = AutoModelForMaskedLM.from_pretrained(base, quantization_config=again)
    four_bit = {name for name, module in network.named_modules() if isinstance(module, Linear4bit)}
    assert len(four_bit) == 2 * 6, "the linear layers of two blocks, and none of the head"


def test_a_perplexity_of_a_network_that_reads_the_answers_is_refused_before_training(
    tiny_run, tmp_path, monkeypatch
) -> None:
    data = [f"dataset.path={write_corpus(tmp_path / 'corpus')}", "dataset=wikitext2", "dataset.max_length=32"]
    base = tmp_path / "xlnet"
    config = AutoConfig.for_model("xlnet", d_model=32, n_layer=1, n_head=2, d_inner=64, vocab_size=300)
    config.initializer_range = 0.3
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tiny_run("model.vocab_size=261").model.tokenizer().save_pretrained(base)
    monkeypatch.setattr(Loop, "run", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(UserError, match="xlnet sees the tokens that it is to predict"):
        carried_out(tiny_run(*data, "model=pretrained", f"model.path={base}", "method.targets=all-linear"))


def test_a_network_that_cannot_compute_activations_again_is_said(tiny_run, tmp_path: Path) -> None:
    base = tmp_path / "albert"
    config = AutoConfig.for_model("albert", **SHAPE, embedding_size=8, vocab_size=300)
    AutoModel.from_config(config).save_pretrained(base)
    tiny_run().model.tokenizer().save_pretrained(base)
    options = ("model=pretrained", f"model.path={base}", "method.targets=all-linear")
    with pytest.raises(UserError, match=r"gradient_checkpointing=true is not for this network \(Albert.*: write false"):
        carried_out(tiny_run(*options, "trainer.gradient_checkpointing=true"))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_base_is_loaded_on_the_cpu_for_a_gpu_too(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    case = Case(TINY, "attention", "cpu")
    context = case.context(method)
    context.device = torch.device("cuda")
    run, seen = context.run, []
    loaded = run.model.build(case.task, {})
    monkeypatch.setattr(type(run.model), "build", lambda model, task, how: seen.append(how) or loaded)
    load(context, case.task, run.method.load_kwargs(run, loaded.head, context.dtype))
    assert [how.get("device_map", {"": "cpu"}) for how in seen] == [{"": "cpu"}]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=(pytest.mark.gpu, gpu))])
def test_methods_of_a_seed_have_the_same_fresh_head(tmp_path, device: str) -> None:
    AutoModel.from_config(AutoConfig.for_model("bert", **SHAPE)).save_pretrained(tmp_path)
    headless = replace(TINY, model=("model=pretrained", f"model.path={tmp_path}"))
    case = Case(headless, "attention", device)
    dense, four_bit = (build(case.context(method), case.task).head_state() for method in ("lora", "qlora"))
    assert dense.keys() == four_bit.keys() != set()
    assert all(torch.equal(four_bit[name], weight) for name, weight in dense.items())


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("method", [name for name in options("method") if name not in ("full", "peft")])
def test_a_gpu_computes_the_gradients_that_the_cpu_does(method: str) -> None:
    def gradients(device: str) -> dict[str, torch.Tensor]:
        case = Case(replace(TINY, batch_size=8, length=24), "attention", device)
        context = case.context(method, "trainer.precision=fp32")
        one = ready(case, context, build(context, case.task))
        one.attached.model.eval()  # without dropout
        _away_from_zero(one.attached.trainable())
        one.batch.inputs["attention_mask"][0, 20:] = 0
        batch = replace(one.batch, real_tokens=one.batch.real_tokens - 4)
        case.task.loss(one.attached.model, batch).backward()
        return {name: p.grad.cpu().double() for name, p in one.attached.trainable() if p.grad is not None}

    on_cpu, on_gpu = gradients("cpu"), gradients("cuda")
    assert on_cpu
    assert on_cpu.keys() ^ on_gpu.keys() == set()
    for name, expected in on_cpu.items():
        assert torch.linalg.norm(on_gpu[name] - expected) <= 1e-3 * torch.linalg.norm(expected) + 1e-7, name


def _away_from_zero(trainable) -> None:
    """Where B is 0, as at the start, A has no gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in trainable:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize(
    "what",
    [*(f"method={name}" for name in options("method") if name != "peft"), *(f"sparsity={name}" for name in pruning())],
)
def test_a_run_on_a_gpu_is_measured_there(tiny_run, what: str) -> None:
    more = () if what.startswith("method=") else ("method=sparse_lora",)
    record, folder = carried_out(tiny_run(*more, what, "device=cuda", "trainer.precision=auto"))
    assert record.environment["device"].startswith("cuda")
    assert record.environment["precision"] == "bf16"
    assert record.metrics["memory/source"] == "cuda_allocated"
    assert record.metrics["memory/train_peak_bytes"] > 0
    assert record.metrics["speed/train_step_ms_p50"] > 0
    assert len(pd.read_parquet(folder / "predictions.parquet")) == record.data["splits"]["evaluation"]["size"]


@pytest.mark.gpu
@gpu
def test_a_base_computed_sparsely_on_a_gpu(tiny_run) -> None:
    record, _ = carried_out(tiny_run(*CONTEXTUAL, "device=cuda", "trainer.precision=auto", "trainer.max_steps=12"))
    assert record.decisions["sparsity"]["sparse_steps"] > 0
    assert record.environment["attention"] == "sdpa_padded"


def test_what_a_reader_must_know_of_steps_and_of_texts_is_noted(tiny_run) -> None:
    record, _ = carried_out(tiny_run("trainer.max_steps=1000", "dataset.max_length=4"))
    steps = record.selection["steps"]
    assert steps == record.history[-1]["step"] < 1000
    assert f"trainer.max_steps=1000 is more than trainer.epochs=1 has: {steps} steps" in record.data["notes"]
    for split in ("train", "evaluation"):
        size = record.data["splits"][split]["size"]
        assert f"{split}: {size} of {size} texts are cut to 4 tokens (dataset.max_length)" in record.data["notes"]
    record, _ = carried_out(tiny_run("trainer.max_steps=2"))
    assert record.selection["steps"] == 2
    assert not [note for note in record.data["notes"] if "max_" in note]


def test_full_fine_tuning_needs_no_targets(tiny_run, tmp_path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = tiny_run().model.tokenizer()
    config = AutoConfig.for_model("modernbert", vocab_size=len(tokenizer), pad_token_id=0, **shape)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "modern")
    tokenizer.save_pretrained(tmp_path / "modern")
    base = ("model=pretrained", f"model.path={tmp_path / 'modern'}", "trainer.max_steps=1")
    for method in (("method=full",), ("method=lora", "method.targets=[Wqkv]")):
        assert "quality/accuracy" in carried_out(tiny_run(*method, *base))[0].metrics
    with pytest.raises(UserError, match=r"method\.targets=attention: neither model\.targets nor PEFT"):
        carried_out(tiny_run("method=lora", *base))
