import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from peftbench.errors import UserError
from peftbench.methods.base import Attached
from peftbench.sparsity.base import Sparsity
from peftbench.training.hooks import Hook

from .helpers import ALL, adamw, fake_run, network, options, regression, train

CONF = Path(__file__).parents[2] / "conf" / "sparsity"
YAMLS = sorted(CONF.glob("*.yaml"))
PRUNING = ("l1", "magnitude", "structured", "topk")


def load(path, **changes):
    return Sparsity.load({**yaml.safe_load(path.read_text()), **changes})


def test_every_kind_has_its_yaml():
    assert [path.stem for path in YAMLS] == ["contextual", "l1", "magnitude", "none", "structured", "topk"]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_yaml_names_every_option_and_survives_a_round_trip(path):
    sparsity = load(path)
    assert sparsity.name == path.stem
    assert set(yaml.safe_load(path.read_text())) == {"_target_", *type(sparsity).model_fields}
    assert Sparsity.load(sparsity.dump()) == sparsity
    assert sparsity.active == (path.stem in PRUNING)


@pytest.mark.parametrize("path", [path for path in YAMLS if path.stem in PRUNING], ids=lambda path: path.stem)
def test_the_schedule_alone_can_be_swept(path):
    gradual, oneshot = load(path, schedule="gradual"), load(path, schedule="oneshot")
    assert (gradual.start, gradual.end, gradual.interval) == (0.2, 0.7, 10)
    assert (oneshot.start, oneshot.end, oneshot.interval) == (0.5, None, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 0.0}, "between 0 and 1 (exclusive): write sparsity=none for a dense adapter"),
        ({"ratio": 1.0}, "write sparsity=none"),
        ({"ratio": 50}, "write sparsity=none"),
        ({"ratio": float("nan")}, "finite"),
        ({"start": 0.0}, "fraction of the training steps"),
        ({"end": 1.5}, "fraction of the training steps"),
        ({"interval": 0}, "at least 1 step"),
        ({"start": 0.7, "end": 0.7}, "must come before end"),
        ({"schedule": "oneshot", "end": 0.7}, "write sparsity.end=null"),
        ({"schedule": "oneshot", "end": None, "interval": 5}, "write sparsity.interval=null"),
        ({"schedule": "linear"}, "'oneshot' or 'gradual'"),
        ({"until": 3}, "Extra inputs"),
    ],
)
@pytest.mark.parametrize("kind", sorted(ALL))
def test_wrong_options_say_what_to_write(kind, changes, said):
    with pytest.raises(ValidationError) as error:
        ALL[kind](**options() | changes)
    assert said in str(error.value)


def test_a_penalty_of_nothing_is_no_l1():
    with pytest.raises(ValidationError, match="write sparsity=magnitude"):
        load(CONF / "l1.yaml", strength=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 0.0}, "write sparsity=none for a dense base"),
        ({"ratio": 1.0}, "between 0 and 1 (exclusive)"),
        ({"ffn": 1.0}, "at least 0 and below 1: write 0 to keep these blocks dense"),
        ({"attention": -0.1}, "at least 0 and below 1"),
        ({"ffn": 0, "attention": 0}, "nothing would be sparse: write sparsity=none"),
        ({"dense_start": 1.0}, "write 0.1, say"),
        ({"dense_start": 0.5, "dense_end": 0.5}, "leave no sparse step between them"),
        ({"layers": []}, "write different layer numbers from 0, such as [2,3,4,5], or null"),
        ({"layers": [1, 1]}, "different layer numbers"),
        ({"predictor_rank": 0}, "greater than or equal to 1"),
        ({"calibration_batches": 0}, "write sparsity.calibration_batches=4, or sparsity.ratio=null"),
        ({"calibration_batches": 0, "ratio": None}, "sparsity.fill=zero and sparsity.recalibrations=0 to do"),
        ({"fill": "zero"}, "nothing to measure again: write sparsity.recalibrations=0"),
        ({"ratio": None, "fill": "zero"}, "nothing would be calibrated: write sparsity.ratio=0.45"),
        ({"rank": 4}, "Extra inputs"),
    ],
)
def test_wrong_options_of_contextual_say_what_to_write(changes, said):
    with pytest.raises(ValidationError) as error:
        load(CONF / "contextual.yaml", **changes)
    assert said in str(error.value)


@pytest.mark.parametrize("kind", sorted(ALL))
def test_nothing_to_prune_is_the_users_error(kind):
    with pytest.raises(UserError, match="write sparsity=none"):
        ALL[kind](**options()).hook(Attached(network().model))


@pytest.mark.parametrize(
    ("schedule", "interval", "steps", "said"),
    [
        ("gradual", 10, 20, "gradual pruned once, after step 14, as oneshot does: from start to end are 10 steps, so"),
        ("gradual", 10, 20, "write sparsity.interval=2 instead of 10"),
        (
            "gradual",
            10,
            3,
            "gradual pruned once, after step 2, as oneshot does: from start to end is one step or none",
        ),
        ("gradual", 9, 20, None),
        ("gradual", 10, 22, None),
        ("oneshot", None, 20, None),
    ],
)
def test_a_gradual_schedule_that_pruned_once_is_noted(schedule, interval, steps, said):
    """The update after start has a target of 0; byte for byte it was pruning at one time, unsaid."""
    attached = network()
    hook = ALL["magnitude"](**options(schedule=schedule, interval=interval)).hook(attached)
    reached = []
    hook.prune = lambda ratio, prune=hook.prune: reached.append(ratio) or prune(ratio)
    train(attached.model, regression(), adamw(attached), hook, steps)
    told = hook.notes()
    assert (len([ratio for ratio in reached if ratio]) == 1) == (bool(told) or schedule == "oneshot")
    assert told == [] if said is None else said in told[0]


def test_none_does_nothing():
    none = load(CONF / "none.yaml")
    assert type(none.hook(network())) is Hook
    assert none.conflict(fake_run(1)) is None


@pytest.mark.parametrize(
    ("rank", "pattern", "ratio", "said"),
    [
        (1, {}, 0.5, "rank 1 has no component to spare"),
        (1, {}, 0.1, "rank 1 has no component to spare"),
        (2, {}, 0.1, "rank 2 has no component to spare at sparsity.ratio=0.1"),
        (4, {}, 0.95, "leaves no component of rank 4"),
        (8, {"layer.0": 1}, 0.5, "rank 1 has no component to spare"),
        (2, {}, 0.5, None),
        (8, {"layer.0": 4}, 0.7, None),
    ],
)
def test_a_rank_that_cannot_shrink_is_a_conflict(rank, pattern, ratio, said):
    reason = ALL["structured"](**options(ratio)).conflict(fake_run(rank, pattern))
    assert reason is None if said is None else said in reason
    assert ALL["topk"](**options(ratio)).conflict(fake_run(rank, pattern)) is None


def test_composing_imports_nothing_heavy():
    names = ["contextual", "magnitude", "topk", "l1", "structured", "schedule"]
    code = f"import sys\nfor name in {names}: __import__('peftbench.sparsity.' + name)\n"
    code += "sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
