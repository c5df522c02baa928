"""LoRA (Hu et al., ICLR 2022): ``y = x W0' + s (dropout(x) A') B'``, PEFT's layers with a forward pass of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftbench.methods.tuner import RankedTuner

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftConfig, PeftModel

    from peftbench.config import RunConfig
    from peftbench.methods.injection import Sites


class Lora(RankedTuner):
    """Dense LoRA, and the base of everything that is LoRA on something else or with something more."""

    frozen_branch: ClassVar[bool] = True

    def conflict(self, run: RunConfig) -> str | None:
        """Dense LoRA is dense: with a sparsity it is another method, under its own name."""
        if run.sparsity.active and not self.low_rank:
            return "dense LoRA takes no sparsity: write method=sparse_lora"
        return None

    def peft_config(self, sites: Sites, run: RunConfig) -> LoraConfig:
        """See `Tuner.peft_config`; the alpha rule holds at every layer, whatever its rank."""
        from peft import LoraConfig

        from peftbench.methods import factors, injection

        rank = run.rank
        assert rank is not None
        injection.check_pattern(rank.pattern, sites.layers)
        return LoraConfig(
            r=rank.value,
            lora_alpha=rank.scale * rank.value,  # type: ignore[arg-type]  # any number will do
            rank_pattern=dict(rank.pattern),
            alpha_pattern={key: factors.scale_at(rank, r) * r for key, r in rank.pattern.items()},
            target_modules=sites.targets,
            fan_in_fan_out=sites.transposed,
            lora_dropout=self.dropout,
        )

    def prepare(self, model: PeftModel, run: RunConfig) -> None:
        """See `Tuner.prepare`."""
        from peftbench.methods import lora_layer

        lora_layer.fuse(model)

    def export(self, model: PeftModel) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
        """See `Tuner.export`; the configuration says the ranks that the layers have now."""
        from peftbench.methods import factors

        config, state = super().export(model)
        for name, value in factors.rank_fields(list(factors.pairs(model))).items():
            setattr(config, name, value)
        return config, state

    def admit(self, model: PeftModel, config: PeftConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Tuner.admit`.

        Raises:
            UserError: the saved configuration says other scales than the layers have.
        """
        from peftbench.methods import factors

        found = list(factors.pairs(model))
        for pair in found:
            pair.fit(state)
        factors.check_scales(config, found)
        return state
