"""The configuration: every option composes, every wrong value is said in one sentence, the hash is what decides."""

from __future__ import annotations

import itertools
import re
from typing import Literal

import pytest
from support import options, pruning

from peftbench.component import Checked
from peftbench.config import RunConfig
from peftbench.errors import UserError

METHODS = options("method")


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group in ("method", "dataset", "model", "rank", "sparsity", "trainer", "tracker")
     for option in options(group)],
)  # fmt: skip
def test_every_yaml_composes(compose, group: str, option: str, sentences, tmp_path) -> None:
    for name in ("config.json", "provenance.json"):
        (tmp_path / name).touch()
    source = {
        ("dataset", "text"): [f"dataset.path={sentences}"],
        ("dataset", "hub"): ["dataset.id=fancyzhx/ag_news"],
        ("model", "imdb_gpt2"): [f"model.path={tmp_path}"],
        ("model", "pretrained"): ["model.id=FacebookAI/roberta-base"],
    }
    run = compose(f"{group}={option}", *source.get((group, option), []))
    assert RunConfig.load(run.dump()) == run


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rank=0"], "rank.value"),
        (["trainer.lr=-1"], "trainer.lr"),
        (["trainer.precision=fp8"], "trainer.precision"),
        (["method=sparse_lora", "sparsity.ratio=1.5"], "sparsity.ratio"),
        (["trainer.batch_size=many"], "trainer.batch_size"),
        (["trainer.lr=true"], "trainer.lr: true and false are no numbers: write one (got True)"),
        (["seed=false"], "seed: true and false are no numbers"),
        (["engine.timeout=true"], "engine.timeout: true and false are no numbers"),
        (["model=tiny", "model.init_seed=true"], "model.init_seed: true and false are no numbers"),
        (["trainer.betas=[true,0.9]"], "trainer.betas: true and false are no numbers"),
        (["rank.pattern={query:true}"], "rank.pattern: true and false are no numbers"),
        (["method=vera", "method.rank_args.r=true"], "method.rank_args: true and false are no numbers"),
        (["device=gpu"], "device"),
        (["sweep=a/b"], "sweep: only letters, digits"),
        (["output_dir=~nobody-at-all/x"], "output_dir=~nobody-at-all/x: there is no home that ~ stands for; write the"),
        (["method.name=a/b"], "method.name: only letters, digits"),
        (["model=pretrained"], "model: write model.id=OWNER/NAME"),
        (["+dataset.colour=red"], "dataset.colour: there is no such option"),
        (["rank.alpha=16"], "rank"),
        (["engine.in_process=true", "engine.timeout=3"], "engine"),
        (["method._target_=os.getcwd"], "not a Method"),
        (["method._target_=nowhere.Thing"], "cannot be imported"),
        (["method._target_=peftbench.methods.base.Method"], "peftbench.methods.base.Method does not define attach, "),
    ],
)
def test_wrong_values_are_named(compose, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        compose(*overrides)
    assert len(str(caught.value).splitlines()) == 1


def test_what_may_be_true_may_be_true_and_numbers_may_be_written_as_text(compose) -> None:
    assert compose("trainer.compile=true").trainer.compile
    assert compose("method=dora", "+method.args.init_lora_weights=true").method.args["init_lora_weights"]
    assert compose("trainer.lr='0.1'", "trainer.batch_size='4'").trainer.batch_size == 4


def test_hash_is_over_what_decides(compose) -> None:
    base = compose()
    assert compose("sweep=7").sweep == "7"
    assert compose("tracker=none", "sweep=other", "output_dir=/elsewhere", "engine.fail_fast=true").hash == base.hash
    for change in ("seed=1", "trainer.lr=1e-4", "rank=4", "dataset.max_length=64", "method=hira", "device=cpu"):
        assert compose(change).hash != base.hash, change


@pytest.mark.parametrize(("option", "default"), [("entity", None), ("project", "peftbench")])
def test_variables_of_wandb_are_the_defaults_of_the_tracker(compose, monkeypatch, option: str, default) -> None:
    base = compose("tracker=wandb")
    for value, meant in (("ours", "ours"), ("", default)):
        monkeypatch.setenv(f"WANDB_{option.upper()}", value)
        run = compose("tracker=wandb")
        assert getattr(run.tracker, option) == run.dump()["tracker"][option] == meant
        assert run.hash == base.hash
    assert getattr(compose("tracker=wandb", f"tracker.{option}=mine").tracker, option) == "mine"


def test_tags_of_wandbs_variable_are_the_default_of_the_trackers(compose, monkeypatch) -> None:
    base = compose("tracker=wandb")
    assert base.tracker.tags == ()
    for value, meant in (("", []), ("night, a100,", ["night", "a100"]), ("x" * 70, ["x" * 64])):
        monkeypatch.setenv("WANDB_TAGS", value)
        run = compose("tracker=wandb")
        assert run.dump()["tracker"]["tags"] == meant
        assert run.hash == base.hash
    assert compose("tracker=wandb", "tracker.tags=[mine]").tracker.tags == ("mine",)


def test_a_mode_that_wandb_does_not_know_is_refused_where_it_would_be_asked_for(compose, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(UserError, match=r"^tracker: WANDB_MODE=nonsense is no mode of W&B: write WANDB_MODE=online, "):
        compose("tracker=wandb")
    assert compose("tracker=none").tracker.name == "none"


def test_a_method_without_a_rank_drops_the_axis(compose) -> None:
    assert compose("method=full", "rank=4").run_id == compose("method=full", "rank=8").run_id
    assert compose("method=lora", "rank=4").run_id != compose("method=lora", "rank=8").run_id


def test_a_method_without_an_alpha_is_one_run_whatever_the_ratio(compose) -> None:
    one, other = (compose("method=shira", f"rank.alpha_ratio={ratio}") for ratio in (2, 8))
    assert one.hash == other.hash
    assert compose("method=shira", "rank=4").hash != one.hash
    assert len({compose("method=dora", f"rank.alpha_ratio={ratio}").hash for ratio in (2, 8)}) == 2


def test_dense_lora_with_a_sparsity_is_a_conflict_with_a_reason(compose) -> None:
    assert "sparse_lora" in (compose("method=lora", "sparsity=magnitude").conflict() or "")
    assert compose("method=full", "sparsity=magnitude").conflict()
    assert compose("method=sparse_lora", "sparsity=none").conflict()


def test_hybrids_are_legal(compose) -> None:
    for method, sparsity in itertools.product(("sparse_lora", "qlora", "hira"), pruning()):
        assert compose(f"method={method}", f"sparsity={sparsity}").conflict() is None, (method, sparsity)


def test_only_a_frozen_branch_can_be_computed_sparsely(compose) -> None:
    reasons = {method: compose(f"method={method}", "sparsity=contextual").conflict() for method in options("method")}
    assert {method for method, reason in reasons.items() if reason is None} == {"lora", "qlora"}
    assert reasons["hira"] == (
        "method=hira does not add a trained branch to a frozen one, which is all that sparsity=contextual computes "
        "sparsely: write method=lora or method=qlora"
    )


def test_run_ids_name_the_axes(compose) -> None:
    run = compose("method=sparse_lora", "rank=4", "seed=3", "sparsity.ratio=0.7")
    assert run.run_id == f"sparse_lora-sst2-distilbert-r4-magnitude0.7-s3-{run.hash[:8]}"


def test_scaling_follows_the_alpha_rule(compose) -> None:
    assert compose("rank=4").rank.scale == 2.0
    assert compose("rank=fixed_alpha", "rank.value=4").rank.scale == 4.0


def test_true_is_taken_where_a_type_has_it():
    class Inner(Checked):
        flag: bool

    class Own(Checked):
        either: Literal[True] | int
        inner: Inner | float

    assert Own(either=True, inner={"flag": True}).model_dump() == {"either": True, "inner": {"flag": True}}
