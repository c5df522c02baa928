"""One run: a configuration in, a record filled in. The order is the one that the figures' definitions need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from peftbench.context import Context, prepare_process, resolve_device, seed_everything
from peftbench.errors import UserError
from peftbench.files import scratch, share
from peftbench.inputs import Data, prepare
from peftbench.measuring import precision
from peftbench.measuring.energy import Energy
from peftbench.measuring.environment import describe
from peftbench.measuring.flops import flops_per_token
from peftbench.measuring.inference import profile_inference
from peftbench.measuring.memory import PeakMemory, resident
from peftbench.measuring.sizes import base_bytes, file_bytes, parameter_counts
from peftbench.methods import quantization
from peftbench.methods.frozen import hold_in
from peftbench.record import ADAPTER, PREDICTIONS, Record
from peftbench.sparsity.compact import DENSE_FILE, compact_folder, expand_folder, sparsity_of
from peftbench.tasks import vocabulary
from peftbench.training import attention, dropout, frozen_linear, last_layer, one_cast
from peftbench.training.compiled import compiled, saying_what_cannot_be_compiled
from peftbench.training.loop import Loop, Trained

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.methods.base import Attached
    from peftbench.models.base import Loaded
    from peftbench.sweep.child import OnProgress
    from peftbench.tasks.base import Task
    from peftbench.training.hooks import Hook


def execute(run: RunConfig, folder: Path, record: Record, on_progress: OnProgress) -> None:
    """Carry ``run`` out and fill ``record`` in; adapter and predictions go to ``folder``.

    Raises:
        UserError: data, weights or targets are not what the configuration says.
        Skip: this machine cannot run this combination.
    """
    prepare_process(run.sparsity.products)
    device = resolve_device(run.device)
    dtype = precision.resolve(run.trainer.precision, device)
    context = Context(run, folder, record, on_progress, device, dtype)
    record.environment |= describe(device, dtype)
    try:
        data = prepare(context)
        context.baseline = resident(device)
        attached = build(context, data.task)
        check(context, data, attached)
        dense_entries = parameter_counts(attached)["params/adapter"]
        hooks = [run.method.hook(attached), run.sparsity.hook(attached)]
        trained = train(context, data, attached, hooks)
        save(context, attached, dense_entries)
        leave_training(context, data, attached, hooks)
        evaluate(context, data, attached)
        profile(context, data, attached)
        record.metrics |= trained.metrics
    finally:
        record.metrics |= context.clock.metrics()


def load(context: Context, task: Task, load_kwargs: Mapping[str, Any]) -> Loaded:
    """The base model on the CPU, with the attention that the recipe asks for.

    The same seed gives every method the same fresh head: it is drawn where the base is loaded, and each device draws
    other numbers.
    """
    run, record = context.run, context.record
    how = {} if run.trainer.attention == "auto" else {"attn_implementation": run.trainer.attention}
    seed_everything(run.seed)
    loaded = run.model.build(task, {**how, **load_kwargs})
    loaded.task_type = task.peft_type
    attention.register()
    if run.trainer.attention == "auto":
        attention.choose(loaded.model, context.attention)
    attention.ask_nothing(loaded.model)
    record.base |= {**loaded.identity, **quantization.described(loaded.model)}
    record.environment["attention"] = loaded.model.config._attn_implementation
    seed_everything(run.seed)
    return loaded


def build(context: Context, task: Task) -> Attached:
    """Load the base model and attach the method."""
    run, record = context.run, context.record
    context.on_progress("loading", 0, 0)
    with context.clock("load"):
        loaded = load(context, task, run.method.load_kwargs(run, run.model.head(task), context.dtype))
        record.base |= {"targets": list(loaded.targets), "head": list(loaded.head)}
        size = base_bytes(loaded.model, loaded.head)
        attached = run.method.attach(loaded, run)
        record.metrics["size/base_bytes"] = size - hold_in(attached.model, context.dtype)
        attached.model.to(context.device)
        if run.trainer.gradient_checkpointing:
            _recompute(attached.model)
        if context.own_dropout:
            dropout.install(attached.model)
        with context.autocast():
            read_only = last_layer.install(attached.model)
        record.environment["last_layer"] = "first token" if read_only else "all tokens"
        rounded = one_cast.install(attached.model, context.device)
        record.environment["hidden_states"] = precision.label(context.dtype if rounded else torch.float32)
        if context.device.type == "cpu" and not run.trainer.compile:  # whose kernels add the bias too
            frozen_linear.install(attached.model)
    return attached


def _recompute(model: Any) -> None:
    """Let ``model`` keep fewer activations and compute them again, without gradients of frozen embeddings."""
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"trainer.gradient_checkpointing=true is not for this network ({error}): write false"
        ) from error
    model.disable_input_require_grads()  # which reentrant checkpoints alone need


def check(context: Context, data: Data, attached: Attached) -> None:
    """Refuse before the training what could not be trained, or would be for nothing."""
    vocabulary.check(context.run.model.name, (data.train, data.validation, data.evaluation), attached.model)
    attached.model.eval()
    with torch.no_grad(), context.autocast():
        data.task.check(attached.model, data.train, context.device)


def train(context: Context, data: Data, attached: Attached, hooks: Sequence[Hook]) -> Trained:
    """Train, with step curves to the tracker; the selected weights are left in the model."""
    run, record = context.run, context.record

    def report(step: int, total: int, figures: dict[str, float]) -> None:
        if figures:  # first: with the validation that it is pruned at, a run ends in the next line
            run.tracker.log(step, figures)
        context.on_progress("training", step, total, figures)

    seed_everything(run.seed)
    loop = Loop(
        attached,
        data.task,
        data.train,
        data.validation,
        run.trainer,
        run.seed,
        context.device,
        context.autocast,
        hooks,
        report,
        compiled(attached.model, context.device) if run.trainer.compile else None,
    )
    with (
        PeakMemory(context.device, context.baseline) as memory,
        Energy(context.device) as energy,
        context.clock("train"),
        saying_what_cannot_be_compiled(),
    ):
        trained = loop.run()
    record.metrics |= {**memory.metrics("train"), **energy.metrics()}
    record.history, record.selection = trained.history, trained.selection | {"steps": trained.steps}
    if (most := run.trainer.max_steps) is not None and most > trained.steps:
        record.data["notes"].append(
            f"trainer.max_steps={most} is more than trainer.epochs={run.trainer.epochs:g} has: {trained.steps} steps"
        )
    record.data["notes"] += trained.notes
    record.decisions = trained.decisions
    return trained


def save(context: Context, attached: Attached, dense_entries: int) -> None:
    """Write the adapter as it would be shipped, and put what was written back into the model.

    What is evaluated is what is in the files, and their zeros are the ones that are counted.

    Args:
        dense_entries: entries of the adapter before anything was pruned.
    """
    run, record = context.run, context.record
    folder = context.folder / ADAPTER
    run.method.save(attached, folder)
    if run.sparsity.active:
        compact_folder(folder)
        with scratch(context.folder) as plain:
            expand_folder(folder, Path(plain))
            run.method.restore(attached, Path(plain))
            found = sparsity_of(load_file(Path(plain) / DENSE_FILE), dense_entries)
        record.metrics["sparsity/achieved"] = found
        if (target := run.axes["ratio"]) is not None:
            record.metrics["sparsity/target"] = target
    else:
        run.method.restore(attached, folder)
    share(folder)
    record.metrics |= {**parameter_counts(attached), **file_bytes(folder)}


def leave_training(context: Context, data: Data, attached: Attached, hooks: Sequence[Hook]) -> None:
    """Count the FLOPs of a step as the last ones were; what only training needs is then taken out of the network."""
    batch = next(iter(data.task.batches(data.train, context.run.trainer.batch_size, seed=0))).to(context.device)
    with context.autocast():
        found = flops_per_token(attached.model, batch, data.task.loss)
    context.record.metrics["flops/train_per_token"] = found
    for hook in hooks:
        hook.leave()


def evaluate(context: Context, data: Data, attached: Attached) -> None:
    """Touch the evaluation split, once; keep every prediction."""
    import pandas as pd

    record = context.record
    context.on_progress("evaluating", 0, 0)
    attached.model.eval()
    batch_size = context.run.trainer.eval_batch_size
    with (
        PeakMemory(context.device, context.baseline) as memory,
        context.clock("eval"),
        torch.no_grad(),
        context.autocast(),
    ):
        result = data.task.evaluate(attached.model, data.evaluation, batch_size, context.device)
    record.metrics |= {**result.metrics, **memory.metrics("eval")}
    pd.DataFrame(result.predictions).to_parquet(context.folder / PREDICTIONS, index=False)


def profile(context: Context, data: Data, attached: Attached) -> None:
    """Time inference unmerged, then merged where the method merges."""
    run, record = context.run, context.record
    context.on_progress("profiling", 0, 0)

    def measure(model: torch.nn.Module, prefix: str) -> None:
        size = run.trainer.eval_batch_size
        found = profile_inference(
            model, data.task, data.evaluation, size, context.device, context.autocast, prefix=prefix
        )
        record.metrics |= found.metrics
        record.spread |= found.spread

    frozen_linear.uninstall(attached.model)
    one_cast.uninstall(attached.model)
    last_layer.uninstall(attached.model)  # inference is that of the network as transformers has it
    measure(attached.model.eval(), "speed/infer")
    if (merged := run.method.merge(attached)) is not None:
        measure(merged.eval(), "speed/infer_merged")
