"""Sweeps, quality, utilisation and profile in their quick form, and their pages made of results alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.bench import frame, realdata
from peftbench.bench.frame import Options
from peftbench.bench.suite import profile, quality, sweep, utilisation
from peftbench.errors import UserError

QUICK = Options(1, quick=True)


def test_both_sides_of_the_sweep_do_the_same_runs() -> None:
    results = sweep.run(QUICK)
    sides = {block["side"]: block for block in results["blocks"]}
    assert list(sides) == ["ours", "trainer", "matched", "padded"]
    own, peers = ({run["method"]: run for run in sides[side]["runs"]} for side in ("ours", "trainer"))
    assert set(own) == set(peers) == set(sweep.RATES)
    # Sparse LoRA has masks and no parameters beyond LoRA's, so its stand-in trains as many.
    assert {run["trainable"] for run in own.values()} == {run["trainable"] for run in peers.values()}
    assert {len(run["correct"]) for run in (*own.values(), *peers.values())} == {16}
    assert [run["steps"] for run in peers.values()] == [8] * 4, "64 sentences in Trainer's batches of 8"
    assert sides["matched"]["runs"][0]["steps"] == 2
    assert all(len(run["inference"]) >= 3 for run in own.values()), "no phase of ours is left out"
    assert "## Quality" in sweep.page(results)


def test_a_sweeps_times_are_compared_seed_by_seed() -> None:
    def block(side: str, seed: int, *seconds: float) -> dict:
        runs = [{"method": m, "seconds": s} for m, s in zip(("lora", "qlora", "hira", "x"), seconds, strict=False)]
        return {"side": side, "seed": seed, "seconds": sum(seconds), "runs": runs}

    blocks = [block("ours", 0, 1, 1, 1, 1), block("trainer", 0, 4, 4, 4, 8), block("padded", 0, 20)]
    blocks += [block("trainer", 1, 6, 6, 6, 6), block("ours", 1, 2, 2, 2, 2)]
    results = {"blocks": blocks}
    assert sweep.times_faster(results, "trainer") == [5.0, 3.0]
    assert sweep.times_faster(results, "padded") == [20.0]
    results["blocks"].append(block("defaults", 1, 3, 3, 3, 3))
    assert sweep.times_faster(results, "trainer", "defaults") == [2.0]
    assert sweep.times_faster(results, "padded", "defaults") == [], "of other seeds nothing is said"


def test_missing_data_is_said_before_anything_is_run(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no train.parquet and no validation.parquet .* write --data FOLDER"):
        sweep.run(Options(1, data=tmp_path))
    with pytest.raises(UserError, match="--data"):
        quality.run(Options(1, data=tmp_path))
    assert realdata.find(Options(1, data=realdata.make_up(tmp_path / "sst2").parent), "sst2") == tmp_path / "sst2"


def test_ways_of_training_differ_in_one_thing_each() -> None:
    results = quality.run(QUICK)
    ways = results["ways"]
    precisions = {way: {run["precision"] for run in runs} for way, runs in ways.items()}
    assert precisions == {"plain": {"fp32"}, "bucketed": {"fp32"}, "both": {"bf16"}}
    assert {tuple(run["seed"] for run in runs) for runs in ways.values()} == {(0, 1)}
    page = quality.page(results)
    assert page.count("| yes |") + page.count("| no |") == 3


def test_a_step_is_measured_beside_its_own_products() -> None:
    (case,) = utilisation.run(QUICK)["cases"]
    # Two layers of 32 wide: q, k, v, o and twice 4 x 8 tokens through 32 x 64, forward and backward, and the pooler.
    layer = 4 * 32 * 32 + 2 * 32 * 64
    assert case["flops"]["shapes"] == 4 * 4 * 8 * (2 * layer + 32 * 32)
    made = {
        "goal": 0.75,
        "rounds": 2,
        "cases": [{**case, "ms": {"step": [2.0, 4.0], "shapes": [1, 1], "square": [1, 1]}}],
    }
    share = case["flops"]["step"] / case["flops"]["shapes"]
    assert utilisation.used(made["cases"][0], "shapes") == pytest.approx([share / 2, share / 4])
    assert "## Rates" in utilisation.page(made)


def test_every_op_of_a_profile_is_counted_once() -> None:
    results = profile.run(QUICK)
    for case in results["cases"]:
        assert sum(profile.shares(case).values()) == pytest.approx(1)
    page = profile.page(results)
    assert "`aten::mm`" in page
    assert frame.find("profile") is profile


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "attention"),
        ("aten::_softmax_backward_data", "attention"),
        ("aten::gelu", profile.ELEMENTWISE),
        ("DropoutBackward", profile.ELEMENTWISE),
        ("AddmmBackward0", "dispatch"),
        ("aten::native_layer_norm", "normalisation and embedding"),
        ("aten::layer_norm", "dispatch"),
        ("aten::_fused_adamw_", "optimizer and clipping"),
    ],
)
def test_ops_are_told_apart_by_name(op, kind) -> None:
    assert profile.kind(op) == kind


def test_the_script_is_a_users_own() -> None:
    source = (Path(sweep.__file__).parent.parent / "trainer_script.py").read_text()
    assert "import peftbench" not in source
    assert "from peftbench" not in source
