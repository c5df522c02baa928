"""How near a LoRA step at IMDB's length comes to what the machine's matrix products can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from peftbench.bench import markdown
from peftbench.bench.frame import Options

if TYPE_CHECKING:
    import torch

    from peftbench.bench.contenders import Contender
    from peftbench.bench.workloads import Case

ON_DEVICE = True
WARMUP = 3
SQUARE = {"cpu": 2048, "cuda": 8192}
QUICK_SQUARE = 64
GOAL = 0.75
YARDSTICKS = {
    "shapes": "the matrix products of this network's linear layers alone",
    "square": "a large square matrix product",
}


class Product(NamedTuple):
    """One of the step's products with a frozen weight W (out, in): x W^T forward, dy W backward."""

    weight: torch.Tensor
    rows: int

    @property
    def flops(self) -> int:
        """Of both directions together."""
        return 4 * self.rows * self.weight.numel()


def run(options: Options) -> dict[str, Any]:
    """Step and yardsticks by turns, on every long workload."""
    from peftbench.bench.workloads import Case, long_workloads
    from peftbench.context import resolve_device

    device = str(resolve_device("auto"))
    cases = [Case(workload, "attention", device) for workload in long_workloads(options.quick, device)]
    facts = {"rounds": options.repetitions, "warmup_steps": WARMUP, "goal": GOAL}
    return options.gather(facts, (_case(case, options) for case in cases))


def _case(case: Case, options: Options) -> dict[str, Any]:
    import torch

    from peftbench.bench.contenders import enter
    from peftbench.bench.timing import interleave
    from peftbench.measuring.clock import synchronize

    workload, device = case.workload, torch.device(case.device)
    options.say(f"utilisation: {workload.title}")
    contender = enter(case, "lora")
    contender.step()
    per_token = contender.flops_per_token()
    assert per_token is not None
    found = products(contender)
    size = QUICK_SQUARE if options.quick else SQUARE[device.type]
    turns = interleave(
        {"step": contender.step, "shapes": shapes(found), "square": square(size, found[0].weight)},
        options.repetitions,
        case.steps_per_turn(options.quick),
        warmup=1 if options.quick else WARMUP,
        wait=lambda: synchronize(device),
    )
    return {
        "name": workload.title,
        "device": case.device,
        "dtype": str(found[0].weight.dtype).removeprefix("torch."),
        "square": size,
        "flops": {
            "step": round(per_token * contender.batch.real_tokens),
            "shapes": sum(product.flops for product in found),
            "square": 2 * size**3,
        },
        "order": turns.order,
        "ms": turns.ms,
    }


def products(contender: Contender) -> list[Product]:
    """The frozen linear layers of the encoder, in the dtype that they are computed in."""
    from torch import nn

    modules = contender.attached.model.modules()
    frozen = [m.weight for m in modules if isinstance(m, nn.Linear) and not m.weight.requires_grad]
    dtype = contender.context.dtype
    return [Product(weight.detach().to(dtype), contender.batch.real_tokens) for weight in frozen]


def shapes(found: Sequence[Product]) -> Callable[[], None]:
    """All products of one step, each with its own weight, as the network multiplies them."""
    import torch

    first = found[0].weight
    sizes = {size for product in found for size in product.weight.shape}
    inputs = {size: torch.randn(found[0].rows, size).to(first) for size in sizes}

    def work() -> None:
        for product in found:
            torch.nn.functional.linear(inputs[product.weight.shape[1]], product.weight)
        for product in reversed(found):
            torch.mm(inputs[product.weight.shape[0]], product.weight)

    return work


def square(size: int, like: torch.Tensor) -> Callable[[], None]:
    """One product of two ``size`` × ``size`` matrices, with dtype and device of ``like``."""
    import torch

    left, right = (torch.randn(size, size).to(like) for _ in range(2))

    def work() -> None:
        torch.mm(left, right)

    return work


def rates(case: dict[str, Any], name: str) -> list[float]:
    """FLOP a second, round by round."""
    return [case["flops"][name] / (ms / 1e3) for ms in case["ms"][name]]


def used(case: dict[str, Any], yardstick: str) -> list[float]:
    """The step's FLOP/s over a yardstick's, round by round."""
    return [own / other for own, other in zip(rates(case, "step"), rates(case, yardstick), strict=True)]


def page(results: dict[str, Any]) -> str:
    """Goals, then rates."""
    intro = (
        "A step is forward, backward, clipping and fused AdamW of LoRA on q and v with rank 8, no padding. Its FLOPs "
        "are counted op by op; frozen weights have no gradient of their own, so a step is about twice its forward "
        f"pass. The yardsticks are products in the same dtype with the same threads: {YARDSTICKS['shapes']} (forward "
        f"x Wᵀ and backward dy W, every layer's own weight) and {YARDSTICKS['square']}. All take turns in one process, "
        f"{results['rounds']} round(s); utilisation is the step's FLOP/s over the yardstick's within a round, the "
        "median over rounds, and from the smallest to the largest."
    )
    goals = [_goal(case, yardstick, results["goal"]) for case in results["cases"] for yardstick in YARDSTICKS]
    columns = ["", "ms/step", "GFLOP/step", "Step, GFLOP/s", "Its shapes, GFLOP/s", "Square, GFLOP/s"]
    rows = [_row(case) for case in results["cases"]]
    table = markdown.table(["Where", "Beside", "Utilisation", "From–to", f"≥ {results['goal']}"], goals)
    rest = (
        "What is missing to 1 goes to what is no product, from softmax to dropout and its ways through memory, and on "
        "a GPU to waiting for the host: op by op on the page of the benchmark `profile`."
    )
    return "\n\n".join([intro, "## Goals", table, rest, "## Rates", markdown.table(columns, rows)])


def _goal(case: dict[str, Any], yardstick: str, bound: float) -> list[str]:
    found = used(case, yardstick)
    spread = f"{min(found):.2f}–{max(found):.2f}" if len(found) > 1 else markdown.NOTHING
    return [
        case["name"],
        YARDSTICKS[yardstick],
        f"{median(found):.2f}",
        spread,
        markdown.met(median(found) >= bound),
    ]


def _row(case: dict[str, Any]) -> list[str]:
    speeds = [f"{median(rates(case, name)) / 1e9:,.0f}" for name in ("step", *YARDSTICKS)]
    name = f"{case['name']} ({case['dtype']}, square of {case['square']})"
    return [name, f"{median(case['ms']['step']):.1f}", f"{case['flops']['step'] / 1e9:.2f}", *speeds]
