"""Twelve mistakes of earlier work of this kind. Each has a test here that fails if the mistake is made again."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from measuring.fakes import FakeTask, encoded
from methods import bases
from report.conftest import Folder
from safetensors.torch import load_file
from test_run import carried_out

from peftbench.errors import Skip, UserError
from peftbench.measuring.inference import profile_inference
from peftbench.measuring.memory import PeakMemory
from peftbench.report import sweep
from peftbench.report.baseline import compare
from peftbench.report.view import views
from peftbench.training.hooks import Hook
from peftbench.training.loop import Loop

CPU = torch.device("cpu")
METHODS = ("lora", "sparse_lora", "qlora", "hira", "full")


@pytest.fixture
def base(tmp_path) -> bases.Base:
    return bases.Base("bert", tmp_path)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "sweep")


@pytest.fixture
def unprofiled(monkeypatch) -> None:
    """Runs without their last phase, which times inference: most tests here do not look at it."""
    monkeypatch.setattr("peftbench.run.profile", lambda *_: None)


@pytest.fixture
def batches(monkeypatch) -> list[tuple[int, int, int]]:
    """(items, width, real tokens) of every training step."""
    seen: list[tuple[int, int, int]] = []
    step = Loop._step

    def spied(self, index, batch, optimizer):
        seen.append((*batch.inputs["input_ids"].shape, int(batch.inputs["attention_mask"].sum())))
        return step(self, index, batch, optimizer)

    monkeypatch.setattr(Loop, "_step", spied)
    return seen


@pytest.mark.parametrize("name", ["hira", "sparse_lora"])
def test_pitfall_01_hira_is_not_plain_lora(base, name):
    """HiRA multiplies W0 by 1 + s B A, elementwise; its update has a higher rank than B A, LoRA's has not."""
    method, fresh = bases.method(name), base.load().model
    attached = base.attach(method)
    for factor in attached.factors:
        torch.nn.init.normal_(factor.b, std=0.5)
    pairs = {factor.layer: (factor.a.detach().double(), factor.b.detach().double()) for factor in attached.factors}
    merged = method.merge(attached)
    assert pairs
    for layer, (a, b) in pairs.items():
        path = layer.removeprefix("base_model.model.")
        before, after = (model.get_submodule(path).weight.detach().double() for model in (fresh, merged))
        delta = 1.5 * b @ a
        expected = before * delta if name == "hira" else delta
        torch.testing.assert_close(after - before, expected, rtol=1e-4, atol=1e-5)
        rank = int(torch.linalg.matrix_rank(after - before, rtol=1e-4))
        assert rank > len(a) if name == "hira" else rank == len(a)


def test_pitfall_02_qlora_has_the_base_of_the_others(base, folder):
    """The same checkpoint, held in 4 bits; and another base model would stand in another table."""
    dense, four_bit = base.load().model, base.load(bases.method("qlora")).model
    from bitsandbytes.functional import dequantize_4bit

    for (name, p), (other, q) in zip(dense.named_parameters(), four_bit.named_parameters(), strict=True):
        assert name == other
        if q.dtype == torch.uint8:
            weight = dequantize_4bit(q.data, q.quant_state)
            assert torch.corrcoef(torch.stack([weight.flatten(), p.detach().flatten()]))[0, 1] > 0.95, name
        else:
            assert torch.equal(p, q), name
    for seed in range(2):
        folder.classified("lora", seed)
        folder.classified("qlora", seed, axes={"model": "larger"})
    sections = sweep.load(folder.path).sections
    assert [section.key.model for section in sections] == ["larger", "tiny"]
    assert [one.note for one in compare(folder.path, sections[0], "lora")] == ["no lora run in this table"]


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_03_the_head_is_not_counted_as_adapter(tiny_run):
    """Both are counted apart, and as many entries are in the two saved files."""
    counts = {}
    for rank in (2, 4):
        record, path = carried_out(tiny_run("method=lora", f"rank={rank}", "trainer.max_steps=2"))
        saved = {name: load_file(path / "adapter" / f"{name}.safetensors") for name in ("adapter_model", "head")}
        entries = {name: sum(tensor.numel() for tensor in tensors.values()) for name, tensors in saved.items()}
        counts[rank] = (record.metrics["params/adapter"], record.metrics["params/head"])
        assert (entries["adapter_model"], entries["head"]) == counts[rank]
        assert sum(counts[rank]) == record.metrics["params/trainable"]
    assert counts[4][0] == 2 * counts[2][0]
    assert counts[4][1] == counts[2][1] > 0


def test_pitfall_04_one_recipe_for_all_methods(tiny_run, folder):
    """Gradient checkpointing (or a batch size, or a precision) of its own makes a method incomparable, and is said."""
    recipes = [tiny_run(f"method={method}").dump()["trainer"] for method in METHODS]
    assert len({repr({**recipe, "lr": None}) for recipe in recipes}) == 1
    for method, saving in (("lora", False), ("hira", True)):
        for seed in range(2):
            record = folder.classified(method, seed)
            record.config["trainer"]["gradient_checkpointing"] = saving
            record.write(folder.path / record.run_id)
    (view,) = views(sweep.load(folder.path), "lora")
    assert any("gradient_checkpointing: True (hira); False (lora)" in line for line in view.warnings)
    assert any("another trainer.gradient_checkpointing" in note for note in view.notes)
    assert "trainer.gradient_checkpointing" in [column.key for column in view.columns]


CHANGES = (
    "seed=1",
    "trainer.max_grad_norm=0.001",
    "trainer.precision=bf16",
    "trainer.weight_decay=0.9",
    "method=qlora",
    "sparsity=l1 method=sparse_lora",
)


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_05_no_option_is_read_and_ignored(tiny_run):
    """Each changes what is trained; what cannot be done here is refused; what does not exist is an error."""
    short = ("trainer.max_steps=4", "trainer.lr=0.01", "trainer.schedule=constant")
    figures = [carried_out(tiny_run(*short, *change.split()))[0].history for change in ("", *CHANGES)]
    assert len({repr([report["validation/loss"] for report in history]) for history in figures}) == len(figures)
    with pytest.raises(Skip, match="pages to CUDA memory"):
        carried_out(tiny_run("trainer.optimizer=paged_adamw"))
    with pytest.raises(Exception, match="gradient_clipping"):
        tiny_run("trainer.gradient_clipping=1")
    with pytest.raises(UserError, match=r"trainer\.select"):
        tiny_run("trainer.select=sometimes")


class Watch(Hook):
    """The zeros of all factors after every step, counted behind the back of the sparsity."""

    def __init__(self, inner: Hook, attached) -> None:
        self.inner, self.attached = inner, attached
        self.zeros: list[torch.Tensor] = []
        self.penalties: list[bool] = []
        self.start, self.before_step, self.selectable = inner.start, inner.before_step, inner.selectable

    def penalty(self):
        value = self.inner.penalty()
        self.penalties.append(value is not None and value.requires_grad)
        return value

    def after_step(self, step):
        self.inner.after_step(step)
        factors = [tensor for factor in self.attached.factors for tensor in (factor.a, factor.b)]
        self.zeros.append(torch.cat([(tensor.detach() == 0).flatten() for tensor in factors]))


def watched(monkeypatch, tiny_run, *overrides: str) -> Watch:
    run = tiny_run(
        "method=sparse_lora", "trainer.epochs=2", "trainer.max_steps=20", "trainer.validations=1", *overrides
    )
    found: list[Watch] = []
    hook = type(run.sparsity).hook

    def spied(self, attached):
        found.append(Watch(hook(self, attached), attached))
        return found[0]

    monkeypatch.setattr(type(run.sparsity), "hook", spied)
    carried_out(run)
    return found[0]


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_06_pruned_weights_stay_pruned(monkeypatch, tiny_run):
    """Gradual is gradual, what is masked is never trained again once the mask is final, and L1 is in the loss."""
    seen = watched(monkeypatch, tiny_run, "sparsity.schedule=gradual", "sparsity.interval=2", "sparsity.ratio=0.6")
    shares = [float(zero.float().mean()) for zero in seen.zeros]
    assert len(shares) == 20
    pruned = shares[4:]
    assert pruned == sorted(pruned), "never denser again"
    assert len(set(pruned)) >= 4, "in several steps"
    assert shares[-1] == pytest.approx(0.6, abs=0.02)
    assert all(torch.equal(zero, seen.zeros[-1]) for zero in seen.zeros[15:]), "the same entries to the end"


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_06_l1_is_in_the_loss(monkeypatch, tiny_run):
    """Until the last threshold, and the threshold comes late."""
    penalties = watched(monkeypatch, tiny_run, "sparsity=l1").penalties
    assert len(penalties) == 20
    assert all(penalties[:10])


def test_pitfall_07_zeros_make_files_smaller_and_inference_is_measured(tiny_run):
    """The bytes are those of the files as shipped; speed is timed as trained and merged, never inferred from zeros."""
    size = ("model.hidden_size=64", "rank=32", "trainer.max_steps=4")
    dense, _ = carried_out(tiny_run("method=lora", *size))
    for sparsity in ("magnitude", "structured"):
        sparse, path = carried_out(tiny_run("method=sparse_lora", f"sparsity={sparsity}", "sparsity.ratio=0.75", *size))
        files = [file for file in (path / "adapter").iterdir() if not file.name.startswith("head")]
        on_disk = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".json"))
        assert sparse.metrics["size/adapter_bytes"] == on_disk
        assert on_disk < 0.6 * dense.metrics["size/adapter_bytes"]
        for prefix in ("speed/infer", "speed/infer_merged"):
            assert sparse.metrics[f"{prefix}_latency_ms_p50"] > 0
            assert sparse.metrics[f"{prefix}_samples_per_s"] > 0


class Copier(torch.nn.Module):
    """Predicts, at every place, the very token that stands there."""

    def __init__(self):
        super().__init__()
        self.output_layer = torch.nn.Identity()

    def get_output_embeddings(self):
        return self.output_layer

    def forward(self, input_ids, attention_mask=None, **_):
        return SimpleNamespace(logits=self.output_layer(30.0 * torch.nn.functional.one_hot(input_ids, 300).float()))


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_08_perplexity_is_of_the_next_token(tiny_run, tmp_path):
    """Copying what is visible does not help, padding does not count, and it is not the training loss."""
    from peftbench.tasks.select import task_for

    for name in ("train", "validation", "test"):
        rows = [{"text": f"line {i} of a {name} text that goes on"} for i in range(40)]
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
    run = tiny_run(f"dataset.path={tmp_path}", "dataset=wikitext2", "dataset.max_length=32", "model.architecture=gpt2")
    text, tokenizer = run.dataset.read(), run.model.tokenizer()
    task = task_for(run.dataset, text, tokenizer, run.model.config())
    data = task.encode(text.evaluation, tokenizer, train=False)
    copied = task.evaluate(Copier(), data, 4, CPU).metrics["quality/perplexity"]
    assert copied > 1e6
    record, path = carried_out(run)
    table = pd.read_parquet(path / "predictions.parquet")
    assert int(table["tokens"].sum()) == len(data.tokens) - 1, "every token of the corpus once, but the first"
    perplexity = record.metrics["quality/perplexity"]
    assert perplexity == pytest.approx(math.exp(table["nll"].sum() / table["tokens"].sum()), rel=1e-5)
    assert perplexity != pytest.approx(math.exp(record.history[-1]["train/loss"]), rel=1e-3)


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_09_nothing_is_selected_on_the_evaluation_split(tiny_run, tmp_path, monkeypatch):
    """It is touched once, after training; SST-2's figures are called dev figures; validation comes out of train."""
    for name, count in (("train", 120), ("validation", 40)):
        rows = {"sentence": [f"{name} sentence {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
    run = tiny_run("dataset=sst2", f"dataset.path={tmp_path}", "dataset.validation_size=20", "dataset.max_length=48")
    texts = run.dataset.read()
    assert "dev" in texts.evaluation.name
    assert "test" not in texts.evaluation.name
    assert set(texts.validation.texts) <= {f"train sentence {i}" for i in range(120)}
    assert not set(texts.validation.texts) & set(texts.train.texts)
    assert set(texts.evaluation.texts) == {f"validation sentence {i}" for i in range(40)}

    from peftbench.tasks.classification import SequenceClassification

    sizes: list[int] = []
    evaluate = SequenceClassification.evaluate

    def spied(self, model, data, *rest):
        sizes.append(len(data))
        return evaluate(self, model, data, *rest)

    monkeypatch.setattr(SequenceClassification, "evaluate", spied)
    record, _ = carried_out(run)
    assert sizes == [20] * (len(sizes) - 1) + [40]
    assert record.selection["metric"] == "validation/accuracy"


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_10_the_selected_checkpoint_is_the_reported_one(tiny_run, monkeypatch):
    """One rule: the saved weights have the validation figure that they were selected by. And seeds count."""
    from peftbench import run as module

    measured = {}
    evaluate = module.evaluate

    def spied(context, data, attached):
        attached.model.eval()
        with torch.no_grad(), context.autocast():
            result = data.task.evaluate(attached.model, data.validation, 32, CPU)
        measured[context.run.seed] = result.metrics["quality/accuracy"]
        return evaluate(context, data, attached)

    monkeypatch.setattr(module, "evaluate", spied)
    options = ("trainer.max_steps=16", "trainer.validations=8", "trainer.lr=0.05")
    records = [carried_out(tiny_run(*options, f"seed={seed}"))[0] for seed in (0, 1)]
    for seed, record in enumerate(records):
        best = max(report["validation/accuracy"] for report in record.history)
        assert record.selection["value"] == best == measured[seed]
    assert records[0].history != records[1].history


def test_pitfall_10_one_seed_is_no_interval_and_no_test(folder):
    folder.classified("lora")
    folder.classified("hira")
    (view,) = views(sweep.load(folder.path), "lora")
    assert {
        cell.text.partition(" ")[2] for column in view.columns if column.key == "quality" for cell in column.cells
    } == {"(1 seed)"}
    assert any("one seed in common" in note for note in view.notes)


def test_pitfall_11_what_was_not_measured_is_absent(folder):
    """A dash, in the table and in no average: never a zero and never an estimate."""
    folder.classified("lora", 0, rank=4, metrics={"speed/train_tokens_per_s": None})
    folder.classified("lora", 0, rank=8, metrics={"speed/train_tokens_per_s": 100.0})
    (view,) = views(sweep.load(folder.path), "lora")
    (speed,) = [column for column in view.columns if column.key == "speed/train_tokens_per_s"]
    assert sorted(cell.text for cell in speed.cells) == ["100", "–"]


def test_pitfall_11_inference_is_timed_after_warm_up(monkeypatch):
    """Three slow first passes are not in the figures, and the device is waited for within each timed pass."""
    now, calls = [0.0], []

    class Slow(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            calls.append("pass")
            now[0] += 60.0 if len(calls) <= 3 else 0.001

    def wait(device):
        now[0] += 0.002
        calls.append("wait")

    monkeypatch.setattr("peftbench.measuring.inference.synchronize", wait)
    figures = profile_inference(
        Slow(), FakeTask(), encoded([4] * 40), 4, CPU, nullcontext, clock=lambda: now[0]
    ).metrics
    assert figures["speed/infer_latency_ms_p50"] == pytest.approx(3.0)
    assert figures["speed/infer_latency_ms_p95"] == pytest.approx(3.0)


def test_pitfall_11_peak_memory_is_reset_between_phases():
    with PeakMemory(CPU) as first:
        torch.ones(100 * 2**20, dtype=torch.uint8)
    with PeakMemory(CPU) as second:
        torch.ones(10 * 2**20, dtype=torch.uint8)
    assert first.bytes > 90 * 2**20
    assert second.bytes < 30 * 2**20


@pytest.mark.usefixtures("unprofiled")
def test_pitfall_12_speed_does_not_measure_padding(tiny_run, batches):
    """Batches are as wide as their longest item, not as the limit; speed counts real tokens; the rest is reported."""
    record, _ = carried_out(tiny_run("dataset.max_length=400", "trainer.max_steps=12"))
    assert max(width for _, width, _ in batches) < 100
    real, computed = sum(real for *_, real in batches), sum(items * width for items, width, _ in batches)
    assert record.metrics["padding/efficiency"] == pytest.approx(real / computed)
    assert record.metrics["padding/efficiency"] > 0.9
    per_item = record.metrics["speed/train_tokens_per_s"] / record.metrics["speed/train_samples_per_s"]
    lengths = np.array([real / items for items, _, real in batches])
    assert lengths.min() <= per_item <= lengths.max()
