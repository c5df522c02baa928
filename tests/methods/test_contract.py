"""What every method must do, over every YAML file in conf/method: a new one is tested unasked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from peftbench.methods.quantization import prepare
from peftbench.methods.tuner import Tuner
from peftbench.models.base import Loaded

from . import bases
from .bases import METHODS, Base


@pytest.fixture(params=METHODS)
def method(request):
    return bases.method(request.param)


def shrink(attached) -> list[int]:
    """Keep another number of components at every layer; returns them."""
    ranks = []
    for index, factor in enumerate(attached.factors):
        rank = 1 + index % factor.a.shape[0]
        a, b = factor.a.detach()[:rank], factor.b.detach()[:, :rank]
        factor.replace(torch.nn.Parameter(a.clone()), torch.nn.Parameter(b.clone()))
        ranks.append(rank)
    return ranks


def test_yaml_has_the_name_and_a_learning_rate(method):
    from omegaconf import OmegaConf

    path = bases.CONF / f"{method.name}.yaml"
    assert path.is_file(), "method.name is what users type: the name of the file"
    assert path.read_text().startswith("# @package _global_\n")
    assert 0 < OmegaConf.load(path).trainer.lr < 0.1
    assert type(method).load(method.dump()) == method


def test_starts_as_the_base_network(method, any_base: Base):
    before = bases.logits(any_base.load(method).model)
    after = bases.logits(any_base.attach(method).model)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_trains_adapter_and_head_and_nothing_else(method, base: Base):
    untouched = {name: p.numel() for name, p in base.load(method).model.named_parameters()}
    attached = base.attach(method)
    adapter, head = attached.adapter_state(), attached.head_state()
    assert adapter
    expected = {name: n for name, n in untouched.items() if name.split(".")[0] in base.head}
    assert {name.split("base_model.model.")[-1]: t.numel() for name, t in head.items()} == expected
    frozen = [p.numel() for p in attached.model.parameters() if not p.requires_grad]
    added = sum(t.numel() for name, t in adapter.items() if name not in untouched)
    if method.name == "adalora":
        added += len(base.targets) * 2  # ranknum, a frozen count of one number a layer
    total = sum(frozen) + sum(t.numel() for t in (*adapter.values(), *head.values()))
    assert total == sum(untouched.values()) + added, "a head is counted twice, or a base weight got lost"
    assert all(p.dtype == torch.float32 for _, p in attached.trainable())


def test_learns_and_leaves_the_base_alone(method, base: Base):
    attached = base.attach(method)
    frozen = {name: p.detach().clone() for name, p in attached.model.named_parameters() if not p.requires_grad}
    losses = bases.train(attached)
    assert losses[-1] < losses[0]
    now = dict(attached.model.named_parameters())
    assert all(torch.equal(now[name], p) for name, p in frozen.items())


def test_adapter_alone_learns(method, base: Base):
    attached = base.attach(method)
    before = {name: tensor.clone() for name, tensor in attached.adapter_state().items()}
    for name, p in attached.trainable():
        p.requires_grad_(not attached.is_head(name))
    losses = bases.train(attached, steps=4)
    assert losses[-1] < losses[0]
    assert any(not torch.equal(before[name], tensor) for name, tensor in attached.adapter_state().items())


def test_restore_gives_identical_logits(method, base: Base, tmp_path):
    attached = base.attach(method)
    before = bases.logits(attached.model)
    bases.train(attached)
    method.save(attached, tmp_path)
    expected = bases.logits(attached.model)
    assert (expected - before).abs().max() > 0.01
    torch.manual_seed(99)
    fresh = base.attach(method)
    method.restore(fresh, tmp_path)
    torch.testing.assert_close(bases.logits(fresh.model), expected, rtol=1e-5, atol=1e-6)


def test_files_hold_adapter_and_head_apart(method, base: Base, tmp_path):
    attached = base.attach(method)
    method.save(attached, tmp_path)
    head = load_file(tmp_path / "head.safetensors")
    assert {name.split(".")[0] for name in head} == set(base.head)
    (adapter_file,) = (path for path in tmp_path.glob("*.safetensors") if not path.name.startswith("head"))
    saved = load_file(adapter_file)
    trained = sum(tensor.numel() for tensor in attached.adapter_state().values())
    assert sum(tensor.numel() for tensor in saved.values() if tensor.is_floating_point()) == trained
    assert not any(f".{name}." in f".{key}" for name in base.head for key in saved)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json"}


def test_peft_finds_the_base_of_a_causal_language_model_by_its_adapter(method, tmp_path):
    if not isinstance(method, Tuner):
        pytest.skip("it saves no adapter of PEFT's")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=bases.VOCABULARY, initializer_range=bases.WIDE, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    kwargs = method.load_kwargs(bases.run(), (), torch.float32)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **kwargs)
    prepare(network)
    network.config._commit_hash = "c0ffee"  # as of one from the hub
    before = bases.logits(network.eval())
    attached = method.attach(Loaded(network, (), ("q_proj", "v_proj"), {}, task_type="CAUSAL_LM"), bases.run())
    optimizer = torch.optim.AdamW([p for _, p in attached.trainable()], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        attached.model(input_ids=bases.batch()[0], labels=bases.batch()[0]).loss.backward()
        optimizer.step()
    method.save(attached, tmp_path / "adapter")
    expected = bases.logits(attached.model.eval())
    assert (expected - before).abs().max() > 1e-3
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", **kwargs)
    prepare(theirs)
    assert theirs.peft_config["default"].revision == "c0ffee"
    torch.testing.assert_close(bases.logits(theirs.eval()), expected, rtol=1e-5, atol=1e-5)
    method.restore(attached, tmp_path / "adapter")
    torch.testing.assert_close(bases.logits(attached.model), expected, rtol=1e-5, atol=1e-5)


def test_of_a_head_peft_shall_not_make_another_one(method, base: Base, tmp_path):
    if not isinstance(method, Tuner):
        pytest.skip("it saves no adapter of PEFT's")
    loaded = base.load(method)
    loaded.task_type = "SEQ_CLS"
    method.save(method.attach(loaded, bases.run()), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] is None


def test_merging_changes_nothing(method, any_base: Base):
    attached = any_base.attach(method)
    bases.train(attached)
    expected = bases.logits(attached.model)
    merged = method.merge(attached)
    if merged is None:
        assert not any(isinstance(module, BaseTunerLayer) for module in attached.model.modules())
        return
    kinds = {type(module).__name__ for module in merged.modules()}
    assert not any("lora" in kind.lower() or "4bit" in kind for kind in kinds)
    torch.testing.assert_close(bases.logits(merged.eval()), expected, rtol=1e-4, atol=1e-4)


def test_shrunk_factors_run_train_save_and_merge(method, base: Base, tmp_path):
    if not method.low_rank:
        assert base.attach(method).factors == []
        return
    attached = base.attach(method)
    assert len(attached.factors) == 2 * len(base.targets)
    bases.train(attached)
    ranks = shrink(attached)
    assert len(set(ranks)) > 1
    trained = {id(p) for _, p in attached.trainable()}
    assert all(id(p) in trained for factor in attached.factors for p in (factor.a, factor.b))
    bases.train(attached, steps=1)
    expected = bases.logits(attached.model)
    method.save(attached, tmp_path)
    fresh = base.attach(method)
    method.restore(fresh, tmp_path)
    assert [factor.a.shape[0] for factor in fresh.factors] == ranks
    torch.testing.assert_close(bases.logits(fresh.model), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bases.logits(method.merge(attached)), expected, rtol=1e-4, atol=1e-4)


def test_a_dropped_zero_component_changes_nothing(method, base: Base):
    """Independent of the above: the scaling s must stay what it was, not become alpha / r'."""
    attached = base.attach(method)
    bases.train(attached)
    with torch.no_grad():
        for factor in attached.factors:
            factor.b[:, -1] = 0
    expected = bases.logits(attached.model)
    for factor in attached.factors:
        factor.replace(torch.nn.Parameter(factor.a.detach()[:-1]), torch.nn.Parameter(factor.b.detach()[:, :-1]))
        if alpha := getattr(factor.module, "lora_alpha", None):
            assert alpha["default"] / factor.module.r["default"] == factor.scale == 1.5
    torch.testing.assert_close(bases.logits(attached.model), expected, rtol=1e-5, atol=1e-5)


def test_runs_under_bf16_autocast(method, base: Base):
    attached = base.attach(method)
    expected = bases.loss(attached.model).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = bases.loss(attached.model)
    loss.backward()
    assert abs(loss.item() - expected) < 0.1 + 0.1 * expected
    grads = [p.grad for _, p in attached.trainable()]
    assert all(grad is not None and grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_gradient_checkpointing_changes_nothing(method, base: Base):
    attached = base.attach(method)
    bases.train(attached, steps=1)
    attached.model.train()
    found = []
    for _ in range(2):
        attached.model.zero_grad()
        bases.loss(attached.model).backward()
        found.append({name: p.grad.clone() for name, p in attached.trainable()})
        attached.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-5, atol=1e-6, msg=name)


def test_conflicts_say_what_to_write(method):
    reason = method.conflict(bases.run(sparse=True))
    assert (reason is None) == method.low_rank
    assert reason is None or "write" in reason
    reason = method.conflict(bases.run(sparse=False))
    assert (reason is None) == (method.name != "sparse_lora")


def test_composing_imports_nothing_heavy():
    code = (
        "import sys, pathlib, yaml\n"
        "from peftbench.methods.base import Method\n"
        f"for path in pathlib.Path({str(bases.CONF)!r}).glob('*.yaml'):\n"
        "    method = Method.load(yaml.safe_load(path.read_text())['method']); method.uses_rank\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
