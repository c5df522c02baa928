"""HiRA (Huang et al., ICLR 2025): ``W' = W0 * (1 + s B A)``, elementwise, so that the update's rank is not r."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftbench.methods import quantization
from peftbench.methods.tuner import RankedTuner

if TYPE_CHECKING:
    import torch
    from peft import HiraConfig, PeftConfig, PeftModel

    from peftbench.config import RunConfig
    from peftbench.methods.injection import Sites


class Hira(RankedTuner):
    """HiRA in PEFT's format, computed by `peftbench.methods.hira_layer`.

    PEFT knows no ``s``: it is folded into B on disk, and taken out of it again by `restore`. Nor does PEFT's dense
    layer know ranks of its own (0.21 ignores ``rank_pattern``): where layers differ in rank, saved pairs are padded
    with zero components to the largest, which PEFT computes to the same outputs and `restore` drops again.
    """

    low_rank: ClassVar[bool] = True

    quantize: Literal["none", "nf4"] = "none"
    """``nf4`` holds the base in 4 bits, as QLoRA does."""

    def load_kwargs(self, run: RunConfig, head: tuple[str, ...], dtype: torch.dtype) -> Mapping[str, Any]:
        """See `Method.load_kwargs`."""
        return {} if self.quantize == "none" else quantization.load_kwargs(head, dtype)

    def peft_config(self, sites: Sites, run: RunConfig) -> HiraConfig:
        """See `Tuner.peft_config`."""
        from peft import HiraConfig

        from peftbench.methods import injection

        assert run.rank is not None
        injection.check_pattern(run.rank.pattern, sites.layers)
        return HiraConfig(
            r=run.rank.value,
            rank_pattern=dict(run.rank.pattern),
            target_modules=sites.targets,
            fan_in_fan_out=sites.transposed,
            hira_dropout=self.dropout,
        )

    def prepare(self, model: PeftModel, run: RunConfig) -> None:
        """Give every layer its rank and its ``s``, and PEFT's layers the fused forward pass."""
        from peft.utils.other import get_pattern_key

        from peftbench.methods import factors, hira_layer, injection

        assert run.rank is not None
        pattern = run.rank.pattern
        for pair in factors.pairs(model):
            rank = pattern.get(get_pattern_key(list(pattern), pair.layer), run.rank.value)
            if pair.rank != rank:
                pair.module.update_layer(injection.ADAPTER, rank, config=model.peft_config[injection.ADAPTER])
            hira_layer.fuse(pair.module, factors.scale_at(run.rank, rank))

    def export(self, model: PeftModel) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
        """See `Tuner.export`: ``s`` folded into B, and one rank for all layers."""
        from torch.nn.functional import pad

        from peftbench.methods import factors

        config, state = super().export(model)
        found = list(factors.pairs(model))
        largest = max(pair.rank for pair in found)
        for pair in found:
            missing = largest - pair.rank
            for key, tensor in zip(pair.keys, (pair.a, pair.b * pair.scale), strict=True):
                state[key] = pad(tensor.detach(), (0, 0, 0, missing) if tensor is pair.a else (0, missing))
        config.r, config.rank_pattern = largest, {}  # type: ignore[attr-defined]  # a HiraConfig
        return config, state

    def admit(self, model: PeftModel, config: PeftConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Tuner.admit`: the inverse of `export`."""
        from peftbench.methods import factors

        for pair in factors.pairs(model):
            key_a, key_b = pair.keys
            used = state[key_a].any(dim=1) | state[key_b].any(dim=0)
            rank = max(1, int(used.nonzero().max()) + 1 if used.any() else 1)
            state[key_a] = state[key_a][:rank].contiguous()
            state[key_b] = (state[key_b][:, :rank] / pair.scale).contiguous()
            pair.fit(state)
        return state
