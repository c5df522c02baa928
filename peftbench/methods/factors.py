"""The low-rank pairs in PEFT's LoRA and HiRA layers, and how their ranks get into a saved configuration."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.hira.layer import HiraLayer
from peft.tuners.lora.layer import LoraLayer
from peft.utils.other import get_pattern_key
from torch import nn

from peftbench.errors import UserError
from peftbench.methods.base import Factor
from peftbench.methods.injection import ADAPTER, PREFIX

if TYPE_CHECKING:
    from peft import PeftModel

    from peftbench.config import Rank


class Pair(Factor):
    """One adapted layer of a PEFT model."""

    def __init__(self, layer: str, module: Any) -> None:
        self.layer = layer
        self.module = module

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]

    @property
    @abstractmethod
    def scale(self) -> float:
        """``s``, the factor before ``B A``."""

    @property
    @abstractmethod
    def keys(self) -> tuple[str, str]:
        """Names of A and B in a saved adapter."""

    @abstractmethod
    def fold(self, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight W' (d, k) for a base weight (d, k)."""

    def delta(self) -> torch.Tensor:
        """``s B A``, shape (d, k), without a graph."""
        return self.b.detach() @ self.a.detach() * self.scale

    def fit(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take on the shapes that this pair has in a saved adapter; values are loaded afterwards."""
        a, b = (state[key].to(self.a) for key in self.keys)
        if a.shape[0] != self.rank:
            self.replace(nn.Parameter(a), nn.Parameter(b))


class LoraPair(Pair):
    """``W' = W0 + s B A`` (Hu et al., 2022)."""

    @property
    def a(self) -> nn.Parameter:
        """A, shape (r, k)."""
        return self.module.lora_A[ADAPTER].weight

    @property
    def b(self) -> nn.Parameter:
        """B, shape (d, r)."""
        return self.module.lora_B[ADAPTER].weight

    @property
    def scale(self) -> float:
        """See `Pair.scale`."""
        return float(self.module.scaling[ADAPTER])

    @property
    def keys(self) -> tuple[str, str]:
        """See `Pair.keys`."""
        return f"{PREFIX}{self.layer}.lora_A.weight", f"{PREFIX}{self.layer}.lora_B.weight"

    def replace(self, a: nn.Parameter, b: nn.Parameter) -> None:
        """See `Factor.replace`; alpha follows the rank, so that s = alpha / r stays."""
        rank = a.shape[0]
        self.module.lora_A[ADAPTER].weight, self.module.lora_A[ADAPTER].out_features = a, rank
        self.module.lora_B[ADAPTER].weight, self.module.lora_B[ADAPTER].in_features = b, rank
        self.module.r[ADAPTER], self.module.lora_alpha[ADAPTER] = rank, self.scale * rank

    def fold(self, weight: torch.Tensor) -> torch.Tensor:
        """See `Pair.fold`."""
        return (weight + self.delta()).to(weight.dtype)


class HiraPair(Pair):
    """``W' = W0 * (1 + s B A)``, elementwise (Huang et al., 2025)."""

    @property
    def a(self) -> nn.Parameter:
        """A, shape (r, k)."""
        return self.module.hira_A[ADAPTER]

    @property
    def b(self) -> nn.Parameter:
        """B, shape (d, r)."""
        return self.module.hira_B[ADAPTER]

    @property
    def scale(self) -> float:
        """See `Pair.scale`."""
        return float(self.module.scale)

    @property
    def keys(self) -> tuple[str, str]:
        """See `Pair.keys`."""
        return f"{PREFIX}{self.layer}.hira_A", f"{PREFIX}{self.layer}.hira_B"

    def replace(self, a: nn.Parameter, b: nn.Parameter) -> None:
        """See `Factor.replace`."""
        self.module.hira_A[ADAPTER], self.module.hira_B[ADAPTER] = a, b
        self.module.r[ADAPTER] = a.shape[0]

    def fold(self, weight: torch.Tensor) -> torch.Tensor:
        """See `Pair.fold`."""
        return torch.addcmul(weight, weight, self.delta()).to(weight.dtype)


def pairs(model: PeftModel) -> Iterator[Pair]:
    """Every LoRA or HiRA layer of ``model``, in the network's order."""
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            yield LoraPair(name, module)
        elif isinstance(module, HiraLayer):
            yield HiraPair(name, module)


def rank_fields(found: Sequence[Pair]) -> dict[str, Any]:
    """LoraConfig's fields that describe the ranks and the scales of ``found``."""
    sizes = {pair.layer: (pair.rank, pair.scale * pair.rank) for pair in found}
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    # Anchored: PEFT matches a key with the end of a name otherwise.
    others = {f"^{re.escape(layer)}": size for layer, size in sizes.items() if size != (rank, alpha)}
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {key: size[0] for key, size in others.items()},
        "alpha_pattern": {key: size[1] for key, size in others.items()},
        # Alpha is that of s = alpha / r, also where the layers were made with alpha / sqrt(r).
        "use_rslora": False,
    }


def check_scales(config: Any, found: Sequence[Pair]) -> None:
    """PEFT must give the layers of a saved adapter the scales that ``found`` have.

    Args:
        config: the adapter's LoraConfig.
    Raises:
        UserError: ``config`` says others.
    """
    for pair in found:
        rank, alpha = (
            pattern.get(get_pattern_key(list(pattern), pair.layer), default)
            for pattern, default in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
        )
        scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        if not math.isclose(scale, pair.scale, rel_tol=1e-6):
            raise UserError(
                f"PEFT would scale {pair.layer} of the saved adapter by {scale:g}, and it was trained with "
                f"{pair.scale:g}: let the method's export write r, lora_alpha and use_rslora as Lora.export does"
            )


def scale_at(rank: Rank, r: int) -> float:
    """``s = alpha / r`` of a layer of rank ``r`` under the alpha rule of ``rank``."""
    return rank.scale if rank.alpha is None else rank.alpha / r
