"""The options of ``hydra/launcher=slurm``: checked while composing, and what sbatch is told, without a Slurm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support import CONF, peftbench

from peftbench.errors import UserError
from peftbench.sweep import command
from peftbench.sweep.grid import Point
from peftbench.sweep.slurm import options as module
from peftbench.sweep.slurm import submit
from peftbench.sweep.slurm.job import Task
from peftbench.sweep.slurm.options import PROGRAMS, TRIALS, Cluster, chosen
from peftbench.sweep.slurm.ticket import Ticket

SHIPPED = OmegaConf.load(CONF / "hydra" / "launcher" / "slurm.yaml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"time": 0}, "hydra.launcher.time"),
        ({"time": True}, "hydra.launcher.time: true and false are no numbers"),
        ({"gpus": 2}, "one GPU at most"),
        ({"gpus": "a100"}, "TYPE:1"),
        ({"gpus": "a100:4"}, "TYPE:1"),
        ({"gpus": True}, "hydra.launcher.gpus"),
        ({"cpus": 0}, "hydra.launcher.cpus"),
        ({"memory": "16"}, "800M, 16G"),
        ({"memory": "lots"}, "hydra.launcher.memory"),
        ({"array_parallelism": 0}, "hydra.launcher.array_parallelism"),
        ({"setup": "module load cuda"}, "hydra.launcher.setup"),
        ({"sbatch": {"cpus_per_task": 2}}, "has its own option"),
        ({"sbatch": {"array": "0-3"}}, "must not change"),
        ({"tasks": 2}, "hydra.launcher.tasks: there is no such option"),
        ({"_target_": "hydra_plugins.hydra_joblib_launcher.JoblibLauncher"}, "write hydra/launcher=slurm"),
    ],
)
def test_a_wrong_option_is_named(changed: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        chosen(OmegaConf.create({**SHIPPED, **changed}))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_word_points_are_carried_out_here() -> None:
    assert chosen(OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"})) is None


@pytest.mark.parametrize(
    ("engine", "device", "changed", "said"),
    [
        ({"in_process": True}, "auto", {}, "leave out hydra/launcher=slurm"),
        ({"timeout": 3600.0}, "auto", {"time": 60}, "would never be reached"),
        ({}, "mps", {}, "device=mps"),
        ({}, "cuda", {"gpus": 0}, "write hydra.launcher.gpus=1"),
        ({}, "cpu", {"gpus": 1}, "would stand idle"),
    ],
)
def test_what_could_not_take_effect_is_refused_before_anything_is_written(
    noop_points, options, engine, device, changed, said
) -> None:
    (point,) = noop_points("", **engine)
    object.__setattr__(point, "run", point.run.model_copy(update={"device": device}))
    with pytest.raises(UserError) as caught:
        command.carry_out([point], launcher=Cluster(options(**changed)))
    assert said in str(caught.value)
    assert not point.folder.parent.exists()


@pytest.mark.parametrize(
    ("gpus", "devices", "asked"),
    [
        ("auto", ("auto",), "1"),
        ("auto", ("cpu",), None),
        ("auto", ("cpu", "cuda"), "1"),
        (0, ("auto",), None),
        (1, ("auto",), "1"),
        ("a100:1", ("cuda",), "a100:1"),
    ],
)
def test_a_job_asks_for_a_gpu_where_its_run_can_use_one(tiny_run, options, gpus, devices, asked) -> None:
    runs = [tiny_run().model_copy(update={"device": device}) for device in devices]
    options(gpus=gpus).check(runs)
    assert options(gpus=gpus).gpus_for(runs) == asked


@pytest.mark.parametrize(
    ("jobs", "parallelism", "search", "at_a_time"),
    [
        ("auto", None, False, None),
        ("auto", None, True, TRIALS),
        (3, None, False, 3),
        (3, None, True, 3),
        (3, 8, False, 8),
        ("auto", 8, True, 8),
    ],
)
def test_as_many_at_a_time_as_engine_jobs_unless_the_launcher_says_otherwise(
    noop_points, options, jobs, parallelism, search, at_a_time
) -> None:
    cluster = Cluster(options(array_parallelism=parallelism), search=search)
    assert cluster.at_a_time([point.run for point in noop_points("", jobs=jobs)]) == at_a_time


@pytest.fixture
def script(monkeypatch, tmp_path) -> Callable[[list[Point], Cluster], list[str]]:
    """The lines of submitit's own script for jobs of these points, taken on its way to sbatch."""
    for name in PROGRAMS:
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho Submitted batch job 12\n")
        program.chmod(0o755)
    (tmp_path / "srun").symlink_to("sbatch")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    def sent(points: list[Point], cluster: Cluster) -> list[str]:
        tasks = [Task(p, Ticket("peftbench-x-1", i, ""), False, "noop:execute", "noop") for i, p in enumerate(points)]
        assert submit.submit(tasks, cluster) == "12"
        return (points[0].folder.parent / ".slurm" / "peftbench-x-1" / "12_submission.sh").read_text().splitlines()

    return sent


def test_every_option_arrives_in_the_script(noop_points, options, script) -> None:
    asked = {"partition": "long", "account": "lab", "qos": "high", "time": 90, "cpus": 3, "memory": "7G"}
    more = {"setup": ["module load cuda"], "sbatch": {"constraint": "a100", "exclusive": True}, "requeue": False}
    sent = script(noop_points("", "", jobs=2), Cluster(options(**asked, **more)))
    flags = {line.removeprefix("#SBATCH --") for line in sent if line.startswith("#SBATCH")}
    wanted = {"partition=long", "account=lab", "qos=high", "time=90", "cpus-per-task=3", "mem=7G", "no-requeue"}
    wanted |= {"constraint=a100", "exclusive", "array=0-1%2", "job-name=peftbench-x-1"}
    assert wanted <= flags
    assert not [flag for flag in flags if flag.startswith("gpu")], "device=cpu"
    assert sent.index("module load cuda") < next(i for i, line in enumerate(sent) if line.startswith("exec "))


@pytest.mark.parametrize(("entries", "flag"), [([], "-P "), ([""], "")])
def test_a_job_imports_from_the_folder_of_submission_where_the_engine_does(
    noop_points, options, script, monkeypatch, tmp_path, entries: list[str], flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*entries, *sys.path])
    (line,) = [line for line in script(noop_points(""), Cluster(options())) if line.startswith("exec ")]
    assert line.startswith(f"exec {sys.executable} {flag}-u -m submitit")


def test_without_slurm_or_submitit_one_sentence_says_what_to_do(noop_points, options, monkeypatch, tmp_path) -> None:
    (point,) = noop_points("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch here; start on a login node"):
        command.carry_out([point], launcher=Cluster(options()))
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'peftbench\[slurm\]'"):
        command.carry_out([point], launcher=Cluster(options()))
    assert not point.folder.parent.exists()


def test_one_word_changes_in_a_dry_run_which_needs_no_slurm(tmp_path: Path) -> None:
    grid = ["-m", "method=lora,hira", "seed=0,1", "engine.dry_run=true"]
    here, there = (peftbench(*grid, *word, cwd=tmp_path) for word in ([], ["hydra/launcher=slurm"]))
    assert there.returncode == 0, there.stderr
    assert here.stdout == there.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [["method=lora"], ["-m", "method=lora"], ["-cn", "search"], ["-cn", "demo"]])
def test_every_way_to_start_checks_the_launcher(tmp_path: Path, how: list[str]) -> None:
    done = peftbench(*how, "engine.dry_run=true", "hydra/launcher=slurm", "hydra.launcher.gpus=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "hydra.launcher.gpus: a job is one run" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_choosing_the_cluster_imports_nothing_heavy() -> None:
    code = "import sys; import peftbench.sweep.slurm.options; print({'torch', 'submitit', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
