"""``sparsity=contextual``: SparseLoRA (Khaki et al., ICML 2025), the frozen base computed sparsely while training.

Nothing is removed from the adapter: what is saved, merged and evaluated is a plain LoRA adapter on a dense network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from peftbench.sparsity.base import Sparsity

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.methods.base import Attached
    from peftbench.training.hooks import Hook


class Contextual(Sparsity):
    """In each sparse step every block multiplies by the rows and columns of W0 that matter for the batch at hand.

    A training-free predictor (a truncated SVD of W0) says which from the mean of the batch's sequences, padding left
    out. The trained branch is computed as ever. Evaluation is dense, and so is the start of training.
    """

    active: ClassVar[bool] = False
    # Its blocks differ in width. Where not all are kept each is built anew in every step, a fifth of a short one.
    products: ClassVar[int] = 96

    ratio: float | None
    """Target fraction of the frozen linear layers' multiplications to leave out of a sparse step; null: no target,
    every block of ``layers`` is at its largest fraction."""
    ffn: float
    """Largest fraction of hidden channels that a feed-forward block leaves out; 0 keeps all of them dense."""
    attention: float
    """Largest fraction of each head's channels that an attention block leaves out; 0 keeps all of them dense."""
    fill: Literal["zero", "mean", "linear"]
    """What a hidden channel, or one of v, stands at where it is left out. ``zero`` is the paper's way. ``mean``, over
    the calibration batches, costs no more. ``linear`` is, for hidden channels, the least-squares prediction from the
    block's input: all of them together are one product with a (d, d) matrix. Channels are then chosen by their distance
    from what they would stand at, spread included."""
    output_tokens: Literal["dense", "sparse"]
    """Whether the token that a classifier's head reads (the first, in a decoder the last) goes through all hidden
    channels, as the paper's output tokens do; it costs next to nothing. Other tasks have no such token: ``sparse``."""
    layers: tuple[int, ...] | None
    """Layers (from 0) that may be sparse; null: all but the last one where only the token that is read is computed
    there, and without ``ratio``, as nothing measures then what they are worth, but the first sixth (at least one)."""
    dense_start: float
    """Fraction of the steps at the start that are dense. After it blocks get their ratios: what they are worth to a
    network that has found its way to the task is something else than what they were before."""
    dense_end: float
    """Fraction of the steps at the end that are dense, as evaluation is. The paper's networks do without; a small
    encoder that never saw its dense base again is evaluated on something else than it was trained on."""
    predictor_rank: int = Field(ge=1)
    """Rank of the SVD that predicts activations."""
    calibration_batches: int = Field(ge=0)
    """Training batches on which sensitivities are measured, to divide ``ratio`` over the blocks; 0: none."""
    recalibrations: int = Field(ge=0)
    """How many times after that, evenly spread over the sparse steps, means and predictions are measured again on as
    many batches: training changes what they say. 0: never, as where there are none."""

    @field_validator("ratio")
    @classmethod
    def _ratio_in_range(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < 1:
            raise ValueError("must be between 0 and 1 (exclusive): write sparsity=none for a dense base")
        return value

    @field_validator("ffn", "attention")
    @classmethod
    def _fraction_in_range(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise ValueError("must be at least 0 and below 1: write 0 to keep these blocks dense")
        return value

    @field_validator("dense_start", "dense_end")
    @classmethod
    def _phase_in_range(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise ValueError("must be a fraction of the training steps, at least 0 and below 1: write 0.1, say")
        return value

    @field_validator("layers")
    @classmethod
    def _layers_are_indices(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 0 or len(set(value)) < len(value)):
            raise ValueError("write different layer numbers from 0, such as [2,3,4,5], or null")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Contextual:
        if self.ffn == self.attention == 0:
            raise ValueError("ffn and attention are both 0, nothing would be sparse: write sparsity=none")
        if self.dense_start + self.dense_end >= 1:
            raise ValueError("dense_start and dense_end leave no sparse step between them: write smaller fractions")
        if self.calibration_batches == 0 and (self.ratio is not None or self.fill != "zero"):
            raise ValueError(
                "a target, means and predictions come from calibration: write sparsity.calibration_batches=4, or "
                "sparsity.ratio=null, sparsity.fill=zero and sparsity.recalibrations=0 to do without"
            )
        if self.calibration_batches > 0 and self.ratio is None and self.fill == "zero":
            raise ValueError(
                "nothing would be calibrated: write sparsity.ratio=0.45, or sparsity.calibration_batches=0"
            )
        if self.recalibrations > 0 and self.fill == "zero":
            raise ValueError("fill=zero has nothing to measure again: write sparsity.recalibrations=0")
        return self

    def conflict(self, run: RunConfig) -> str | None:
        """Methods whose layers do not compute the frozen base for itself."""
        if run.method.frozen_branch:
            return None
        return (
            f"method={run.method.name} does not add a trained branch to a frozen one, which is all that "
            f"sparsity={self.name} computes sparsely: write method=lora or method=qlora"
        )

    def hook(self, attached: Attached) -> Hook:
        """Puts sliced layers in place of the frozen ones and drives them."""
        from peftbench.sparsity.contextual_hook import ContextualHook

        return ContextualHook(self, attached)
