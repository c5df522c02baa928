"""Counted FLOPs against products small enough to count by hand."""

import pytest
import torch
from torch import nn

from peftbench.measuring.flops import flops_per_token

from .fakes import FakeTask, batch_of

ITEMS, LENGTH, K, D = 2, 8, 64, 32
TOKENS = ITEMS * LENGTH
FORWARD = 2 * TOKENS * K * D


class Net(nn.Module):
    """Embeds the tokens as constants and hands them to ``layer``."""

    def __init__(self, layer: nn.Module, *, input_grad: bool = False):
        super().__init__()
        self.layer = layer
        self.input_grad = input_grad

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = torch.ones(*input_ids.shape, K, requires_grad=self.input_grad)
        return self.layer(x)


def count(layer: nn.Module, *, input_grad: bool = False, **batch) -> float | None:
    return flops_per_token(Net(layer, input_grad=input_grad), batch_of([LENGTH] * ITEMS, **batch), FakeTask().loss)


def test_a_linear_is_one_product_forward_and_one_for_the_weight():
    assert count(nn.Linear(K, D)) * TOKENS == 2 * FORWARD


def test_the_gradient_of_the_input_is_a_third_product():
    assert count(nn.Linear(K, D), input_grad=True) * TOKENS == 3 * FORWARD


def test_a_frozen_weight_has_no_gradient_to_compute():
    frozen = nn.Linear(K, D).requires_grad_(False)
    assert count(frozen, input_grad=True) * TOKENS == 2 * FORWARD


def test_padding_is_computed_but_is_no_token():
    full = count(nn.Linear(K, D))
    assert count(nn.Linear(K, D), width=2 * LENGTH) == 2 * full


class Attention(nn.Module):
    def __init__(self, masked: bool):
        super().__init__()
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool) if self.masked else None
        heads = x.view(ITEMS, LENGTH, 4, K // 4).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted(masked: bool):
    product = 2 * ITEMS * LENGTH * LENGTH * K  # Q K^T, and the same again with V
    counted = count(Attention(masked), input_grad=True) * TOKENS
    # Backward is four products; fused kernels compute Q K^T once more instead of keeping it.
    assert counted in (6 * product, 7 * product)


class Hadamard(torch.autograd.Function):
    """A product written by hand, as HiRA's is."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.flatten(0, 1).T @ x.flatten(0, 1)


def test_products_inside_a_custom_function_are_counted():
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Hadamard.apply(x, self.weight)

    assert count(Layer(K, D), input_grad=True) * TOKENS == 3 * FORWARD


@pytest.mark.parametrize("double", [False, True])
def test_four_bit_weights_cost_the_same_products(double: bool):
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(K, D, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=double)
    layer.to("cpu")
    layer.bias.requires_grad_(False)
    assert count(layer, input_grad=True) * TOKENS == 2 * FORWARD


def test_an_unknown_product_makes_the_figure_absent():
    @torch.library.custom_op("peftbench_test::secret_product", mutates_args=())
    def secret(x: torch.Tensor) -> torch.Tensor:
        return x @ x.transpose(-1, -2)

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + secret(x.detach()).sum()

    assert count(Layer(K, D)) is None
    assert count(Int8()) is None


class Int8(nn.Linear):
    """aten's own integer product has no formula either."""

    def __init__(self):
        super().__init__(K, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        eight = torch.ones(K, K, dtype=torch.int8)
        return super().forward(x) + torch._int_mm(eight, eight).sum()


def test_it_changes_nothing():
    net = Net(nn.Sequential(nn.Dropout(0.5), nn.Linear(K, D))).eval()
    net.layer[1].weight.grad = torch.full((D, K), 7.0)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert flops_per_token(net, batch_of([4]), FakeTask().loss) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net.layer[1].weight.grad, torch.full((D, K), 7.0))
    assert net.layer[1].bias.grad is None
    assert not net.layer[0].training


def test_a_batch_without_tokens_has_no_figure():
    assert flops_per_token(Net(nn.Linear(K, D)), batch_of([0], width=4), FakeTask().loss) is None


def test_running_means_are_afterwards_what_they_were():
    class Norm(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.transpose(1, 2))

    layer = Norm(K)
    assert count(layer) == 0
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(K))
