"""One clear sentence for whatever went wrong while composing."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from peftbench.cli.overrides import as_key
from peftbench.cli.paths import CONF, SWEEPS
from peftbench.component import Component, find
from peftbench.errors import UserError

ELSEWHERE = {
    "r": "rank=8",
    "lora_r": "rank=8",
    "lora_alpha": "rank.alpha (with rank.alpha_ratio=null) or rank.alpha_ratio",
    "lora_dropout": "method.dropout",
    "target_modules": "method.targets",
    "use_dora": "method=dora",
    "load_in_4bit": "method=qlora",
    "learning_rate": "trainer.lr",
    "num_train_epochs": "trainer.epochs",
    "per_device_train_batch_size": "trainer.batch_size",
    "gradient_accumulation_steps": "trainer.batch_size, with trainer.gradient_checkpointing=true where memory is short",
    "lr_scheduler_type": "trainer.schedule",
    "bf16": "trainer.precision=bf16",
    "early_stopping": "trainer.select=best, which keeps the best of trainer.validations checkpoints",
    "patience": "trainer.select=best, which keeps the best of trainer.validations checkpoints",
}
"""What PEFT, Trainer and others call the options of ours."""
_QUOTED_KEY = re.compile(r"""(["'])([^"'{},]+)\1\s*:""")


def explain(error: BaseException) -> str:
    """What is wrong and what to write instead, for errors of ours, of Hydra and of OmegaConf."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return _unread(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value yet: write {error.full_key}=VALUE"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "provider=", "Config search"))]
    if not lines:
        return repr(error)
    return "; ".join([lines[0].rstrip("."), *(_sweeps(error) or _options(error) or _told(lines[1:]))])


def _unread(error: OverrideParseException) -> str:
    """Where Hydra's grammar has no such words: how they are quoted."""
    told = [line.strip() for line in str(error.message).splitlines() if line.strip(" ^")]
    told = [line for line in told if not line.startswith(("LexerNoViableAlt", "Error parsing override", "See http"))]
    reason = f" ({'; '.join(told)})" if told else ""
    key, equals, value = error.override.partition("=")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    instead = f"in both kinds of quotes it can: '{key}=\"{quoted}\"'" if equals else "write KEY=VALUE"
    if value.startswith("{") and (bare := _QUOTED_KEY.sub(lambda found: f"{as_key(found[2])}:", value)) != value:
        instead = f"keys stand without quotes: '{key.removeprefix('++')}={bare}'"
    if re.match(r"\w+\(", value):
        instead = "see Hydra's functions: choice, range, interval, glob, sort, shuffle, tag"
    return f"Hydra cannot read {error.override}{reason}; {instead}"


def _told(lines: list[str]) -> list[str]:
    """What Hydra itself adds; a list of names goes on one line."""
    if lines and lines[0].startswith("Available options"):
        numbers = ", or a number: rank=8, rank=4,8, rank=range(4,17,4)" if "'rank'" in lines[0] else ""
        return [f"{lines[0].rstrip(':').lower()} are {', '.join(lines[1:])}{numbers}"]
    return [line for line in lines if not line.startswith("To append")]


def _sweeps(error: BaseException) -> list[str]:
    """Where ``-cn`` was given a name that no sweep has: the nearest one, and all of them."""
    if not isinstance(error, MissingConfigException) or "primary config" not in str(error):
        return []
    names = sorted({path.stem for folder in (Path("sweeps"), SWEEPS) for path in folder.glob("*.yaml")})
    near = difflib.get_close_matches(error.missing_cfg_file or "", names, n=1)
    return [*(f"did you mean {name}?" for name in near), f"named sweeps are {', '.join(names)}"]


def _options(error: BaseException) -> list[str]:
    """Where an unknown option was written: the nearest name, the names that exist, and the configs that have it."""
    cause: BaseException | None = error
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
        if isinstance(parent, DictConfig) and key is not None:
            names = [str(name) for name in parent if not str(name).startswith("_")]
            group = parent._get_full_key(None)
            near = ([] if group else _of_a_part(str(key))) or difflib.get_close_matches(str(key), names, n=1)
            hints = _left_out(parent, group, str(key)) or [f"did you mean {one}?" for one in near]
            if (ours := ELSEWHERE.get(str(key))) is not None:
                hints = [f"that is {ours} here"]
            elsewhere = _configs_with(group, str(key))
            if elsewhere:
                # Hydra itself sets fixed values before it knows the options of an axis.
                hints += [f"{key} is an option of {', '.join(elsewhere)}"]
                hints += [f"in a grid over {group} whose options all have it write {group}.{key}=choice(VALUE)"]
            return [*hints, f"there is: {', '.join(names) or 'no option'}"]
        cause = cause.__cause__ or cause.__context__
    return []


def _left_out(parent: DictConfig, group: str, key: str) -> list[str]:
    """How an option is written that the class of a component has, and its file does not name."""
    try:
        kind = find(Component, str(parent.get("_target_")))
    except UserError:
        return []
    written = key in kind.model_fields and key not in kind.unused
    return [f"its file leaves {key} out: write +{group}.{key}=VALUE"] if written else []


def _of_a_part(key: str) -> list[str]:
    """The option of the recipe, which is the same part in every run, that has this name: ``trainer.lr`` for ``lr``."""
    from peftbench.config import Trainer

    return [f"trainer.{key}"] if key in Trainer.model_fields else []


def _configs_with(group: str, key: str) -> list[str]:
    """``group=option`` of every config in the group that has the key ``key``."""
    written = re.compile(rf"^\s*{re.escape(key)}:", flags=re.M)
    found = sorted((CONF / group).glob("*.yaml")) if group and (CONF / group).is_dir() else []
    return [f"{group}={path.stem}" for path in found if written.search(path.read_text(encoding="utf-8"))]
