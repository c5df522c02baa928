"""Compiled steps give the eager ones' losses and weights; a machine that cannot compile is told apart."""

from __future__ import annotations

import pytest
import torch
from test_loop import Regression, loop, network, recipe

from peftbench.errors import Skip
from peftbench.training.compiled import compiled, saying_what_cannot_be_compiled

CPU = torch.device("cpu")


def can_compile() -> bool:
    try:
        compiled(network(), CPU)
    except Skip:
        return False
    return True


@pytest.mark.skipif(not can_compile(), reason="needs a C++ compiler")
def test_trains_to_the_weights_that_eager_steps_train_to() -> None:
    eager, ours = network(), network()
    loop(eager, Regression(), recipe()).run()
    torch._dynamo.utils.counters.clear()
    loop(ours, Regression(), recipe(), compiled=compiled(ours, CPU)).run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "it was really compiled"
    torch.testing.assert_close(ours.weight, eager.weight)
    torch.testing.assert_close(ours.bias, eager.bias)


def test_without_a_compiler_the_run_is_skipped_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def missing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(Skip, match=r"trainer\.compile=false"):
        compiled(network(), CPU)
    assert compiled(network(), torch.device("cuda")) is not None, "a GPU's kernels need none"


@pytest.mark.skipif(not can_compile(), reason="needs a C++ compiler")
def test_a_network_that_torch_cannot_compile_is_skipped_with_its_reason() -> None:
    """Not one whose own forward pass fails."""

    class Net(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return super().forward(x)

    told = r"^torch cannot compile this network \(Call to .*\): write trainer.compile=false$"
    with pytest.raises(Skip, match=told), saying_what_cannot_be_compiled():
        torch.compile(Net(2, 2), fullgraph=True)(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="from user code"), saying_what_cannot_be_compiled():
        torch.compile(torch.nn.Linear(2, 2))(torch.ones(1, 3))


def test_compiled_steps_use_torchs_own_dropout_and_attention() -> None:
    from peftbench.bench.workloads import TINY, Case
    from peftbench.training import attention

    case = Case(TINY, "attention", "cpu")
    assert (case.context("lora").own_dropout, case.context("lora", "trainer.compile=true").own_dropout) == (True, False)
    assert case.context("lora", "trainer.compile=true").attention == attention.PADDED
