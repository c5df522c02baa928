"""QLoRA (Dettmers et al., 2023): LoRA on a base whose linear layers are held in 4 bits, by bitsandbytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftbench.methods import quantization
from peftbench.methods.lora import Lora

if TYPE_CHECKING:
    import torch

    from peftbench.config import RunConfig


class QLora(Lora):
    """LoRA with the same targets and rank, on the same checkpoint, quantized while it is loaded."""

    low_rank: ClassVar[bool] = True

    quant_type: quantization.QuantType = "nf4"
    double_quant: bool = True
    """Quantize the block constants too."""
    compute_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What 4-bit layers compute in; ``auto`` is the precision of the run."""

    def load_kwargs(self, run: RunConfig, head: tuple[str, ...], dtype: torch.dtype) -> Mapping[str, Any]:
        """See `Method.load_kwargs`."""
        import torch

        chosen = {"auto": dtype, "fp32": torch.float32, "bf16": torch.bfloat16}[self.compute_dtype]
        return quantization.load_kwargs(head, chosen, self.quant_type, self.double_quant)
