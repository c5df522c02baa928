"""Which channels matter for a batch: activations predicted by a truncated SVD of the weights, and the largest of them.

With x_b the mean over the real tokens of sequence b and W ~ U V' (rank r), the prediction is ``z_b = U V' x_b + bias``;
a channel's score is made of norms over the sequences. Means run over whole sequences, so in a decoder the choice (not
the activations) depends on later tokens of the same training batch, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MULTIPLE = 8
"""Channels that are kept come in eights where there are many: what matrix units work on."""


@dataclass(frozen=True)
class Predictor:
    """Low-rank stand-ins for m weights of the same shape (d, k) that share their input; everything is float32."""

    down: Tensor
    """V of all of them side by side, shape (k, m r)."""
    up: Tensor
    """U, shape (m, r, d)."""
    bias: Tensor
    """Shape (m, 1, d), zeros where a layer has none."""

    @classmethod
    def of(cls, weights: Sequence[Tensor], biases: Sequence[Tensor | None], rank: int) -> Predictor:
        """The best approximations of that rank (or of full rank, if that is less)."""
        factors = [truncated_svd(weight, rank) for weight in weights]
        rows = weights[0].shape[0]
        shifts = [factors[0][0].new_zeros(rows) if bias is None else bias.detach().float() for bias in biases]
        return cls(
            torch.cat([v for _, v in factors], dim=1),
            torch.stack([u.T for u, _ in factors]),
            torch.stack(shifts)[:, None],
        )

    def __call__(self, means: Tensor) -> Tensor:
        """Predicted z, shape (m, sequences, d), for means of shape (sequences, k)."""
        inner = (means @ self.down).view(len(means), len(self.up), -1).transpose(0, 1)
        return torch.baddbmm(self.bias, inner, self.up)


def truncated_svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U (d, r) and V (k, r), float32, with ``U V'`` the best rank-r approximation of ``weight`` (d, k).

    V spans the leading eigenvectors of ``W'W`` and U = W V: cheaper than a whole SVD, and the same. It is computed on
    the CPU, as some devices have no float64.
    """
    wide = weight.detach().cpu().double()
    rank = min(rank, *weight.shape)
    v = torch.linalg.eigh(wide.T @ wide).eigenvectors[:, -rank:]
    return (wide @ v).float().to(weight.device), v.float().to(weight.device)


def sequence_means(x: Tensor, weights: Tensor | None) -> Tensor:
    """Means over real tokens, float32, shape (sequences, k).

    Args:
        x: shape (sequences, length, k).
        weights: shape (sequences, 1, length), see `token_weights`; None counts every token.
    """
    if weights is None:
        return x.mean(dim=1).float()
    return torch.bmm(weights.to(x.dtype), x).squeeze(1).float()


def token_weights(mask: Tensor) -> Tensor:
    """One over a sequence's length at its real tokens, 0 at padding: float32, shape (sequences, 1, length).

    Args:
        mask: 1 (or True) at real tokens, shape (sequences, length).
    """
    real = mask.float()
    return (real / real.sum(dim=1, keepdim=True).clamp(min=1)).unsqueeze(1)


@dataclass(frozen=True)
class Moments:
    """What calibration found of the activations that a block may leave out, over real tokens; float32."""

    mean: Tensor
    """m, shape (d,)."""
    variance: Tensor
    """Shape (d,): of what `stand_in` does not say."""
    reach: Tensor
    """Shape (d,): squared length of the column by which the inner layer multiplies a channel."""
    slope: Tensor | None = None
    """P, shape (k, d), of the least-squares prediction ``m + (x - mean x) P`` from the block's input; None: m alone."""
    input_mean: Tensor | None = None
    """mean x, shape (k,), where there is a slope."""

    def stand_in(self, means: Tensor) -> Tensor:
        """What channels that are left out stand at in the mean of each sequence, shape (sequences or 1, d).

        Args:
            means: of the block's input, shape (sequences, k).
        """
        if self.slope is None or self.input_mean is None:
            return self.mean[None]
        return torch.addmm(self.mean, means - self.input_mean, self.slope)


def importance(activations: Tensor) -> Tensor:
    """``||a||``, shape (d,): how much is lost with each channel if it stands at 0, as the paper has it.

    Args:
        activations: a, predicted for the sequences' means, shape (sequences, d).
    """
    return activations.norm(dim=0)


def distance(activations: Tensor, stand_in: Tensor, moments: Moments) -> Tensor:
    """``||w||^2 (mean (a - s)^2 + variance)``, shape (d,): expected squared change of the output with each channel.

    What the batch at hand says, beside what varies from token to token, which no mean of a sequence can say; and how
    far the layer that comes next carries it. In trained networks a few columns w are many times as long as others.

    Args:
        activations: a, predicted for the sequences' means, shape (sequences, d).
        stand_in: s, what a channel stands at instead, shape (sequences or 1, d).
        moments: of the same channels.
    """
    return moments.reach * ((activations - stand_in).square().mean(dim=0) + moments.variance)


def head_channels(scores: Tensor, heads: int, count: int) -> Tensor:
    """Indices (int64, shape (heads * count,)) of the ``count`` channels of each head with the largest scores.

    As many in every head, and head by head, so that what is chosen can be viewed as (heads, count) again.

    Args:
        scores: shape (d,).
    """
    width = scores.numel() // heads
    within = scores.view(heads, width).topk(count, dim=1, sorted=False).indices
    return (within + torch.arange(heads, device=scores.device)[:, None] * width).flatten()


def attention_channels(
    predicted: Tensor, heads: int, count: int, moments: Moments | None = None
) -> tuple[Tensor, Tensor]:
    """Channels that q and k share, by ``||q|| ||k||``, and those of v by what is lost; see `head_channels`.

    Args:
        predicted: q, k and v, shape (3, sequences, d).
        moments: of what goes into the output projection; v stands at the mean.
    """
    q, k, v = predicted
    scores = q.norm(dim=0) * k.norm(dim=0)
    lost = importance(v) if moments is None else distance(v, moments.mean[None], moments)
    return head_channels(scores, heads, count), head_channels(lost, heads, count)


def channels_kept(width: int, ratio: float) -> int:
    """How many of ``width`` channels stay at that ratio: to the nearest `MULTIPLE` where there are many of these."""
    step = MULTIPLE if width >= 4 * MULTIPLE else 1
    return min(width, max(step, round((1 - ratio) * width / step) * step))
