"""Where the time of a LoRA step goes, op by op, as torch's profiler sees it."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options

if TYPE_CHECKING:
    from peftbench.bench.contenders import Contender
    from peftbench.bench.workloads import Case

ON_DEVICE = True
WARMUP = 3
STEPS = 10
TOP = 15
KINDS = {
    "matrix products": r"aten::(mm|addmm|_addmm_activation|mv|addmv)$|bitsandbytes::gem|mkldnn_linear|mkldnn::_linear",
    "attention": r"aten::(bmm|baddbmm|_?softmax.*|relu|threshold_backward|abs)$|scaled_dot_product|_flash_attention"
    r"|_efficient_attention|^Attention",
    "optimizer and clipping": r"_fused_adam|_foreach_|Optimizer\.|linalg_vector_norm|clip_grad",
    "normalisation and embedding": r"native_layer_norm|embedding|index_select|index_put|index_add",
    "dispatch": r"aten::(view|_unsafe_view|t|transpose|permute|as_strided|empty.*|expand|to|detach|linear|matmul|"
    r"reshape|unsqueeze|squeeze|select|slice|contiguous|clone|_to_copy|alias|result_type|lift_fresh|split.*|narrow|"
    r"chunk|is_nonzero|item|_local_scalar_dense|zeros|zeros_like|ones|ones_like|resize_|set_|layer_norm|dropout)$"
    r"|^autograd::|^detach|Backward\d+$|^torch::autograd",
}
"""Which ops are what, by their names, the first that fits; all others are elementwise."""
ELEMENTWISE = "elementwise: activations, dropout, residuals, casts"
OUTSIDE = {"cpu": "Python, between ops", "cuda": "the GPU waits for its next kernel"}
OBSERVED = {
    "cpu": "shares are of the profiled step. The profiler slows every op by about the same time, so many small ops "
    "look dearer than they are: the first row has both times.",
    "cuda": "it is the time of its kernels on the GPU, and shares are of the plain step: the profiler slows the host, "
    "which a GPU with enough to do does not wait for.",
}


def run(options: Options) -> dict[str, Any]:
    """One profile a workload: sentences as SST-2's, and the lengths of IMDB."""
    from peftbench.bench.workloads import Case, long_workloads, workloads
    from peftbench.context import resolve_device

    device = str(resolve_device("auto"))
    chosen = [workloads(options.quick, device)[0], *long_workloads(options.quick, device)]
    return options.gather({}, (_case(Case(workload, "attention", device), options) for workload in chosen))


def _case(case: Case, options: Options) -> dict[str, Any]:
    from peftbench.bench.contenders import enter

    options.say(f"profile: {case.workload.title}")
    contender, steps = enter(case, "lora"), 2 if options.quick else STEPS
    for _ in range(WARMUP):
        contender.step()
    return {"name": case.workload.title, "device": case.device, "steps": steps, **measure(contender, steps)}


def measure(contender: Contender, steps: int) -> dict[str, Any]:
    """Milliseconds a step without and with the profiler, and its ops: name, milliseconds and calls a step."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    device = torch.device(contender.case.device)
    on_gpu = device.type == "cuda"
    plain, watched = _seconds(contender, steps), 0.0
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    ms: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for _ in range(steps):
        # What the profiler keeps of many steps, between what they free, would have activations find new memory.
        contender.step()
        with profile(activities=activities) as profiler:
            watched += _seconds(contender, 1)
        for event in profiler.key_averages():
            # Kernels are listed besides the ops that began them, whose time on the GPU is theirs.
            if event.device_type == DeviceType.CPU:
                ms[event.key] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / steps
                calls[event.key] += event.count / steps
    ops = [{"op": op, "ms": spent, "calls": calls[op]} for op, spent in ms.most_common() if spent > 0]
    return {"ms": 1e3 * plain / steps, "profiled_ms": 1e3 * watched / steps, "ops": ops}


def _seconds(contender: Contender, steps: int) -> float:
    import torch

    from peftbench.measuring.clock import synchronize

    device = torch.device(contender.case.device)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        contender.step()
    synchronize(device)
    return time.perf_counter() - start


def kind(op: str) -> str:
    """The first of `KINDS` that fits an op's name; a name without a namespace (``Dropout``) is a Function of ours."""
    return next((name for name, pattern in KINDS.items() if re.search(pattern, op)), ELEMENTWISE)


def shares(case: dict[str, Any]) -> dict[str, float]:
    """Share of `whole` by kind; what no op accounts for is the last one."""
    total = max(whole(case), sum(op["ms"] for op in case["ops"]))
    found = dict.fromkeys([*KINDS, ELEMENTWISE], 0.0)
    for op in case["ops"]:
        found[kind(op["op"])] += op["ms"] / total
    return {**found, OUTSIDE[_place(case)]: max(0.0, 1 - sum(found.values()))}


def whole(case: dict[str, Any]) -> float:
    """Milliseconds a step that shares are of: profiled, or plain where the profiler slows only the host."""
    return float(case["ms" if _place(case) == "cuda" else "profiled_ms"])


def _place(case: dict[str, Any]) -> str:
    return str(case["device"]).partition(":")[0]


def page(results: dict[str, Any]) -> str:
    """Shares of all workloads side by side, then the top ops of each."""
    cases = results["cases"]
    intro = (
        "A step is forward, backward, clipping and fused AdamW of LoRA on q and v with rank 8, no padding. Time is an "
        f"op's own, without the ops that it calls; {OBSERVED[_place(cases[0])]} Dispatch is what computes nothing: "
        "views, allocation, autograd's bookkeeping and wrappers around kernels."
    )
    kinds = list(shares(cases[0]))
    rows = [["ms a step, plain / profiled", *(f"{case['ms']:.1f} / {case['profiled_ms']:.1f}" for case in cases)]]
    rows += [[name, *(f"{100 * shares(case)[name]:.1f} %" for case in cases)] for name in kinds]
    table = markdown.table(["", *(case["name"] for case in cases)], rows)
    return "\n\n".join([intro, "## Shares", table, *(_top(case) for case in cases)])


def _top(case: dict[str, Any]) -> str:
    total = whole(case)
    rows = [
        [f"`{op['op']}`", f"{op['ms']:.2f}", f"{100 * op['ms'] / total:.1f} %", f"{op['calls']:.0f}", kind(op["op"])]
        for op in case["ops"][:TOP]
    ]
    columns = ["Op", "ms a step", "Share", "Calls a step", "Counted as"]
    return f"## {case['name']}\n\n{markdown.table(columns, rows)}"
