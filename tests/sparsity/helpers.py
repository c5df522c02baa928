"""A network of bare factors, and the training loop's contract in ten lines."""

from types import SimpleNamespace

import torch
from torch import nn

from peftbench.methods.base import Attached, Factor
from peftbench.sparsity.l1 import L1
from peftbench.sparsity.magnitude import Magnitude
from peftbench.sparsity.structured import Structured
from peftbench.sparsity.topk import TopK

SCHEDULES = {
    "oneshot": {"schedule": "oneshot"},
    "gradual": {"schedule": "gradual", "start": 0.2, "end": 0.7, "interval": 3},
}
MASKING = {
    "magnitude": lambda **o: Magnitude(name="magnitude", scope="tensor", **o),
    "global": lambda **o: Magnitude(name="magnitude", scope="global", **o),
    "topk": lambda **o: TopK(name="topk", **o),
    "l1": lambda **o: L1(name="l1", strength=1e-3, **o),
}
ALL = MASKING | {"structured": lambda **o: Structured(name="structured", **o)}


def options(ratio=0.5, schedule="gradual", **more):
    return {"ratio": ratio, "start": None, "end": None, "interval": None, **SCHEDULES[schedule], **more}


class Pair(nn.Module):
    """x Aᵀ Bᵀ + x: the bare low-rank branch with something frozen beside it."""

    def __init__(self, r, k, d, dtype, b_zero=True):
        super().__init__()
        self.a = nn.Parameter(torch.randn(r, k, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(d, r, dtype=dtype) if b_zero else torch.randn(d, r, dtype=dtype))

    def forward(self, x):
        return x @ self.a.T @ self.b.T + x


class PairFactor(Factor):
    def __init__(self, layer, module):
        self.layer, self.module = layer, module

    a = property(lambda self: self.module.a)
    b = property(lambda self: self.module.b)

    def replace(self, a, b):
        self.module.a, self.module.b = a, b


def network(seed=0, ranks=(8, 6), width=12, dtype=torch.float32, b_zero=True):
    torch.manual_seed(seed)
    model = nn.Sequential(*(Pair(r, width, width, dtype, b_zero) for r in ranks))
    return Attached(model, (), [PairFactor(str(i), layer) for i, layer in enumerate(model)])


def adamw(attached, **more):
    return torch.optim.AdamW([p for _, p in attached.trainable()], lr=0.02, weight_decay=0.1, **more)


def regression(seed=1, width=12, dtype=torch.float32):
    """A loss that asks for more than a sparse adapter can do, so that gradients never vanish."""
    generator = torch.Generator().manual_seed(seed)
    goal = torch.randn(width, width, generator=generator, dtype=torch.float64).to(dtype)

    def loss(model):
        x = torch.randn(16, width, generator=generator, dtype=torch.float64).to(dtype)
        return ((model(x) - x @ goal) ** 2).mean()

    return loss


def train(model, loss, optimizer, hook, steps, each=lambda step: None, clip=1.0):
    """One training, exactly as `Hook` describes it; ``each(step)`` looks on after every step."""
    hook.start(optimizer, steps)
    for step in range(steps):
        value, penalty = loss(model), hook.penalty()
        torch.stack([value, *([] if penalty is None else [penalty])]).sum().backward()
        hook.before_step(step)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        hook.after_step(step)
        optimizer.zero_grad(set_to_none=True)
        each(step)


def fake_run(rank, pattern=None):
    return SimpleNamespace(rank=SimpleNamespace(value=rank, pattern=pattern or {}))
