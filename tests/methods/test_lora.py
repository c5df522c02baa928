"""LoRA: targets, ranks and alphas a layer at a time, and files that PEFT itself reads."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from peftbench.errors import UserError
from peftbench.methods.lora import Lora

from . import bases
from .bases import Base
from .test_contract import shrink


def adapted(attached) -> set[str]:
    return {name.split(".lora_A")[0].split("base_model.model.")[1] for name in attached.adapter_state() if "_A" in name}


def load_in_peft(base: Base, folder) -> torch.nn.Module:
    """As the module docstring of `peftbench.methods.tuner` tells users to."""
    network = base.load().model
    network.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
    return PeftModel.from_pretrained(network, folder).eval()


def test_attention_targets_are_the_models_own(base: Base):
    layers = {f"distilbert.transformer.layer.{i}.attention.{name}" for i in (0, 1) for name in ("q_lin", "v_lin")}
    assert adapted(base.attach(bases.method("lora"))) == layers


def test_all_linear_takes_every_linear_layer_but_the_head(base: Base, gpt2: Base):
    names = {name.split(".")[-1] for name in adapted(base.attach(bases.method("lora", targets="all-linear")))}
    assert names == {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}
    names = {name.split(".")[-1] for name in adapted(gpt2.attach(bases.method("lora", targets="all-linear")))}
    assert names == {"c_attn", "c_proj", "c_fc"}


def test_a_target_that_the_head_has_too_is_adapted_in_the_base_only(tmp_path):
    bert = Base("bert", tmp_path)
    loaded = bert.load()
    loaded.model.classifier = torch.nn.ModuleDict({"dense": torch.nn.Linear(32, 2)})
    attached = bases.method("lora", targets=["dense"]).attach(loaded, bases.run())
    assert adapted(attached)
    assert not any(name.startswith("classifier") for name in adapted(attached))


def test_unknown_targets_list_those_that_exist(base: Base):
    with pytest.raises(UserError, match=r"named query in .*\[k_lin, lin1, lin2, out_lin, q_lin, v_lin\]"):
        base.attach(bases.method("lora", targets=["q_lin", "query"]))
    with pytest.raises(ValueError, match=r"\[query\]"):
        bases.method("lora", targets="query")
    with pytest.raises(ValueError, match="at least one"):
        bases.method("lora", targets=[])


@pytest.mark.parametrize(("rule", "scales"), [({"alpha_ratio": 1.5}, (1.5, 1.5)), ({"alpha": 12.0}, (3.0, 2.0))])
@pytest.mark.parametrize("name", ["sparse_lora", "qlora", "hira"])
def test_the_alpha_rule_holds_at_every_layer(base: Base, name, rule, scales):
    rank = {"alpha_ratio": None, "pattern": {"layer.1.attention.q_lin": 6}, **rule}
    attached = base.attach(bases.method(name), bases.run(**rank))
    found = {factor.layer.split("layer.")[1]: (factor.a.shape[0], factor.scale) for factor in attached.factors}
    assert found["0.attention.q_lin"] == (4, scales[0])
    assert found["1.attention.q_lin"] == (6, scales[1])
    assert found["1.attention.v_lin"] == (4, scales[0])


def test_forward_is_the_papers_equation(base: Base):
    attached = base.attach(bases.method("sparse_lora"))
    factor = attached.factors[0]
    torch.nn.init.normal_(factor.b)
    module = attached.model.get_base_model().get_submodule(factor.layer)
    x = torch.randn(3, 5, 32)
    w0, bias = module.base_layer.weight, module.base_layer.bias
    expected = x @ w0.T + bias + 1.5 * (x @ factor.a.T) @ factor.b.T
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", ["nothing", "layer.7.attention.q_lin", "("])
def test_a_rank_pattern_that_says_nothing_is_an_error(base: Base, pattern):
    for name in ("lora", "hira"):
        with pytest.raises(UserError, match=r"rank\.pattern"):
            base.attach(bases.method(name), bases.run(pattern={pattern: 2}))


@pytest.mark.parametrize("shrunk", [False, True])
def test_peft_loads_what_is_saved(any_base: Base, tmp_path, shrunk):
    method = bases.method("sparse_lora")
    attached = any_base.attach(method, bases.run(alpha_ratio=None, alpha=10.0))
    bases.train(attached)
    if shrunk:
        shrink(attached)
    method.save(attached, tmp_path)
    expected = bases.logits(attached.model)
    torch.testing.assert_close(bases.logits(load_in_peft(any_base, tmp_path)), expected, rtol=1e-5, atol=1e-5)


class OfSquareRoot(Lora):
    """rsLoRA (Kalajdzievski, 2023), as somebody would write it: ``s = alpha / sqrt(r)``."""

    def peft_config(self, sites, run):
        config = super().peft_config(sites, run)
        config.use_rslora = True
        return config


class OfSquareRootTwice(OfSquareRoot):
    def export(self, model):
        config, state = super().export(model)
        config.use_rslora = True
        return config, state


@pytest.mark.parametrize("pattern", [{}, {"layer.1.attention.q_lin": 6}])
def test_a_method_of_ones_own_with_another_scale_is_saved_as_it_was_trained(base: Base, tmp_path, pattern):
    method = OfSquareRoot(name="rs")
    attached = base.attach(method, bases.run(pattern=pattern))
    bases.train(attached)
    expected = bases.logits(attached.model)
    method.save(attached, tmp_path)
    torch.testing.assert_close(bases.logits(load_in_peft(base, tmp_path)), expected, rtol=1e-5, atol=1e-5)
    again = base.attach(method, bases.run(pattern=pattern))
    method.restore(again, tmp_path)
    torch.testing.assert_close(bases.logits(again.model), expected, rtol=1e-5, atol=1e-5)


def test_a_saved_scale_that_is_not_the_trained_one_is_refused(base: Base, tmp_path):
    method = OfSquareRootTwice(name="rs")
    attached = base.attach(method)
    method.save(attached, tmp_path)
    with pytest.raises(UserError, match=r"q_lin of the saved adapter by 6, and it was trained with 3: let the method"):
        method.restore(attached, tmp_path)


def test_dense_lora_refuses_a_sparsity():
    assert bases.method("lora").conflict(bases.run(sparse=True)) == (
        "dense LoRA takes no sparsity: write method=sparse_lora"
    )
