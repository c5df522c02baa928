"""The command as a person types it: exit codes, one sentence, no traceback."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from support import checkpoint, peftbench

from peftbench import __version__ as peftbench_version

LOGGING = "+hydra.callbacks.log._target_=hydra.experimental.callbacks.LogJobReturnCallback"


def write(folder: Path, files: dict[str, str]) -> list[str]:
    """Configuration files of one's own, and the words that name their folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return ["--config-dir", str(folder)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rank=0"], "rank.value"),
        (["trainer.lrr=1"], "did you mean lr?"),
        (["methd=lora"], "did you mean method?"),
        (["method=foo"], "available options in 'method' are adalora"),
        (["sparsity.ratio=0.7"], "sparsity=magnitude"),
        (["method=sparse_lora", "sparsity.ratio=1.5"], "write sparsity=none for a dense adapter"),
        (["method=full", "rank=8"], "method=full has no rank: leave rank.value=8 out"),
        (["method=vera", "rank.alpha_ratio=1"], "method=vera has no alpha: leave rank.alpha_ratio=1 out"),
        (
            ["method=vera", "rank.alpha=4", "rank.alpha_ratio=null"],
            "method=vera has no alpha: leave rank.alpha=4 and rank.alpha_ratio=null out",
        ),
        (["trainer.learning_rate=1"], "that is trainer.lr here"),
        (["method.lora_alpha=16"], "that is rank.alpha (with rank.alpha_ratio=null)"),
        (["dataset.path=/nowhere"], "no such file or folder"),
        (["-cn", "nosuch"], "named sweeps are contextual, demo,"),
        (["-cn", "contextul"], "did you mean contextual?"),
        (["-m", "rank=4,0"], "at the point rank.value=0"),
        (["nonsense"], "Hydra cannot read nonsense (missing EQUAL at '<EOF>'); write KEY=VALUE"),
        (["sweep=été"], "in both kinds of quotes it can: 'sweep=\"été\"'"),
        (["sweep=a(b)"], "Unknown function 'a'"),
        (["dataset.path=~/données (1).csv"], "no such file or folder"),
        (["rank=4,x"], "rank"),
        (["rank=eight"], "fixed_alpha, or a number: rank=8"),
        (["lr=1e-3"], "did you mean trainer.lr?"),
        (["trainer.betas=[0.9,1.5]"], "trainer.betas.1"),
        (["model.targets=[]"], "model.targets"),
        (["hydra.run.dir=elsewhere"], "write output_dir=DIR or sweep=NAME"),
        (["hydra.sweeper.where='rank>8'"], "this is one run: add -m"),
        (["+hydra.job.env_set.HF_HOME=/data"], "hydra.job.env_set has no effect: write HF_HOME=VALUE peftbench ..."),
        (["-m", "+hydra.job.env_set.HF_HOME=/data", "seed=0,1"], "write HF_HOME=VALUE peftbench ..."),
        (["-cn", "search", "+hydra.job.env_set.HF_HOME=/data"], "write HF_HOME=VALUE peftbench ..."),
        (["hydra.verbose=true"], "hydra.verbose has no effect: a run's log is its run.log"),
        (["-m", "hydra.verbose=[peftbench]", "seed=0,1"], "hydra.verbose has no effect"),
        ([LOGGING], "its on_job_end is called before the run: add -m and write on_multirun_end"),
        (["-m", LOGGING, "seed=0,1"], "hydra.callbacks.log: its on_job_end is never called: write on_multirun_end"),
        (["-m", "tracker=none,wandb", "seed=0,1"], "tracker makes no other point"),
        (["-m", "sweep=a,b", "seed=0,1"], "sweep makes no other point"),
        (["-m", "sweep=${method.name}", "method=lora,hira"], "go into one folder, not into 2"),
        (["-cn", "search", "rank=interval(4,64)"], "fractional part"),
        (['rank.pattern={"a.b":2}'], "keys stand without quotes: 'rank.pattern={a.b:2}'"),
        (["method=peft", '+method.args={"a b":"c: d"}'], "keys stand without quotes: '+method.args={a\\ b:\"c: d\"}'"),
        (["hydra.output_subdir=."], "hydra.output_subdir has no effect"),
        (["-m", "sparsity=l1,topk", "method=hira", "sparsity.ratio=0.5"], "write sparsity.ratio=choice(VALUE)"),
        (["-cn", "search", "method=glob(*,exclude=[peft,l*])", "rank=interval(4,x)"], "interval"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = peftbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir()), "nothing is written for a command that cannot be carried out"


def test_an_option_that_a_file_leaves_out_is_written_with_a_plus(tmp_path: Path) -> None:
    own = tmp_path / "own" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("_target_: peftbench.data.movie_reviews.MovieReviews\nname: mine\n")
    done = peftbench("--config-dir", str(own.parent), "dataset=mine", "dataset.max_length=16", cwd=tmp_path)
    assert done.returncode == 2
    assert "its file leaves max_length out: write +dataset.max_length=VALUE" in done.stderr
    unused = peftbench("model=minilm", "model.revision=v9", cwd=tmp_path).stderr
    assert "revision is an option of model=bert, model=distilbert" in unused
    assert "+model.revision" not in unused, "it would be refused"


def test_what_a_file_of_ones_own_says_is_meant(tmp_path: Path) -> None:
    """Before the recipe's defaults, and a trainer file before the learning rate that a method has by default."""
    own = write(
        tmp_path / "own",
        {
            "trainer/long.yaml": "defaults: [default]\nepochs: 3\nlr: 0.0002\n",
            "trainer/asked.yaml": "lr: ???\nmax_steps: ???\n",
            "dataset/mine.yaml": "# @package _global_\nseed: 7\ntrainer: {batch_size: 4}\ndataset: {name: mine}\n",
            "method/mine.yaml": "_target_: peftbench.methods.full.Full\nname: mine\n",
        },
    )
    for words, said in (
        (["method=hira", "trainer=long"], "lr: 0.0002"),
        (["method=hira", "trainer=long"], "epochs: 3"),
        (["method=hira"], "lr: 0.01"),
        (["method=hira", "trainer=asked"], "lr: 0.01"),
        (["method=mine"], "lr: 0.0005"),
        (["dataset=mine"], "batch_size: 4"),
        (["dataset=mine"], "seed: 7"),
    ):
        assert f"{said}\n" in peftbench(*own, *words, "--cfg", "job", cwd=tmp_path).stdout, words


def test_a_value_that_is_missing_is_named(tmp_path: Path) -> None:
    own = write(tmp_path / "own", {"rank/asked.yaml": "value: ???\nalpha: null\nalpha_ratio: 2.0\npattern: {}\n"})
    for words in ([], ["-m", "seed=0,1"]):
        done = peftbench(*own, "rank=asked", *words, "engine.dry_run=true", cwd=tmp_path)
        assert done.returncode == 2
        assert "rank.value has no value yet: write rank.value=VALUE" in done.stderr


def test_a_primary_file_without_the_recipe_is_told_where_it_is(tmp_path: Path) -> None:
    groups = "dataset: sst2, model: tiny, rank: default, trainer: default, tracker: none, sparsity: none, method: lora"
    own = write(tmp_path / "own", {"mine.yaml": f"defaults: [{groups}, _self_]\n"})
    done = peftbench(*own, "-cn", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "`recipe@trainer` among its defaults" in done.stderr


def test_an_experiment_may_be_a_search(tmp_path: Path) -> None:
    """As in templates of Hydra; folders of Hydra's jobs are refused there as on the command line."""
    grid = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {rank: '4,8'}}}\n"
    search = grid + "defaults: [override /hydra/sweeper: optuna]\n"
    own = write(
        tmp_path / "own",
        {
            "experiment/search.yaml": search,
            "experiment/grid.yaml": grid,
            "experiment/folder.yaml": "# @package _global_\nhydra: {run: {dir: there}, sweep: {subdir: '${seed}'}}\n",
        },
    )
    dry = "engine.dry_run=true"
    assert "3 trials" in peftbench(*own, "+experiment=search", "hydra.sweeper.n_trials=3", dry, cwd=tmp_path).stdout
    assert "2 points" in peftbench(*own, "+experiment=grid", dry, cwd=tmp_path).stdout
    for words, said in (
        (["+experiment=grid", "+hydra.sweeper.n_trials=3"], "n_trials is for searches: write hydra/sweeper=optuna"),
        (["+experiment=folder"], "hydra.run.dir has no effect"),
        (["-m", "+experiment=folder", "seed=0,1", "hydra.run.dir=."], "hydra.sweep.subdir has no effect"),
    ):
        done = peftbench(*own, *words, dry, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr


def test_the_version_is_ours(tmp_path: Path) -> None:
    assert peftbench("--version", cwd=tmp_path).stdout == f"peftbench {peftbench_version}\n"


def test_what_cannot_be_combined_is_skipped_with_exit_code_2(tmp_path: Path) -> None:
    done = peftbench("method=lora", "sparsity=magnitude", cwd=tmp_path)
    assert done.returncode == 2
    assert "write method=sparse_lora" in done.stdout


def test_a_dry_run_lists_the_points_and_runs_none(tmp_path: Path) -> None:
    done = peftbench("-m", "method=lora,full", "rank=4,8", "engine.dry_run=true", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("sweep default: 3 points, 3 to run")
    assert [line.split()[0] for line in lines[1:-1]] == ["run"] * 3
    assert "no estimate" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_a_grid_is_thinned_out_and_zipped_on_the_command_line(tmp_path: Path) -> None:
    chosen = ["hydra.sweeper.where=\"not (method == 'hira' and seed > 0)\"", "hydra.sweeper.zip=[[method,rank]]"]
    done = peftbench("-m", "method=lora,hira", "rank=4,8", "seed=0,1", "engine.dry_run=true", *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("(1 left out by where)")
    found = [line.partition("method=")[2] for line in lines[1:-1]]
    assert found == ["lora rank.value=4 seed=0", "lora rank.value=4 seed=1", "hira rank.value=8 seed=0"]


def test_a_name_that_no_disk_takes_is_said(tmp_path: Path, sentences: Path) -> None:
    done = peftbench(f"sweep={'y' * 300}", "model=tiny", "dataset=text", f"dataset.path={sentences}", cwd=tmp_path)
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_for_sockets_that_is_too_deep_is_said(tmp_path: Path, sentences: Path, monkeypatch) -> None:
    deep = tmp_path / ("x" * 110)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    done = peftbench("model=tiny", "dataset=text", f"dataset.path={sentences}", "tracker=none", cwd=tmp_path)
    assert done.returncode == 2
    assert "write TMPDIR=/tmp" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_sweeper_is_refused_before_a_run(tmp_path: Path) -> None:
    other = "_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper\nmax_batch_size: null\nparams: null\n"
    own = write(tmp_path / "own", {"hydra/sweeper/other.yaml": other})
    done = peftbench(*own, "-m", "hydra/sweeper=other", "model=tiny", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert "leave hydra/sweeper out" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_command_that_is_listed_composes_the_point_again(tmp_path: Path) -> None:
    """Also with a configuration of one's own, and without the word that only lists."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("defaults: [config, {override model: tiny}, _self_]\nseed: 7\n")
    own = ["--config-dir", str(tmp_path / "own"), "-cn", "mine"]
    grid = ["-m", "dataset=text", 'dataset.label_column="x, y"', "rank=4,8"]
    (tmp_path / "my texts.csv").write_text('text,"x, y"\nfine,1\n')
    command = [*own, *grid, "dataset.path=my texts.csv", "engine.dry_run=true"]
    lines = peftbench(*command, cwd=tmp_path).stdout.splitlines()[1:-1]
    assert len(lines) == 2
    for line in lines:
        _, run_id, *words = shlex.split(line)
        assert not any(word.startswith("engine.dry_run") for word in words)
        again = peftbench(*words, "engine.dry_run=true", cwd=tmp_path)
        assert run_id in again.stdout, again.stderr


def test_a_runs_own_configuration_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    done = peftbench("--config-dir", str(tmp_path), "-cn", "config", cwd=tmp_path)
    assert done.returncode == 2
    assert "copy the file under another name" in done.stderr


def test_callbacks_that_are_called_in_time_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Mine(Callback):\n"
        "    def on_run_start(self, config, **more): print('one run')\n"
        "    def on_multirun_start(self, config, **more): print('first')\n"
        "    def on_multirun_end(self, config, **more): print('last')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    common = ["+hydra.callbacks.mine._target_=mine.Mine", "engine.dry_run=true"]
    done = peftbench("-m", "seed=0,1", *common, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, last = done.stdout.splitlines()
    assert (first, last) == ("first", "last")
    assert [line.split()[0] for line in lines] == ["sweep", "run", "run", "no"]
    assert peftbench(*common, cwd=tmp_path).stdout.startswith("one run\nsweep default: ")


def test_bad_data_fails_before_any_training(tmp_path: Path) -> None:
    cases = {
        "empty.csv": ("text,label\n", "empty"),
        "one.csv": ("text,label\n" + "".join(f"word {i},1\n" for i in range(30)), "one class"),
        "other.csv": ("sentence,label\ngood,1\n", "sentence"),
    }
    for name, (text, _) in cases.items():
        (tmp_path / name).write_text(text)
    common = ["-m", "dataset=text", "model=tiny", "tracker=none", "sweep=bad"]
    done = peftbench(*common, f"dataset.path={','.join(cases)}", cwd=tmp_path)
    assert done.returncode == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "bad").glob("*/record.json")]
    found = {record["config"]["dataset"]["path"]: record for record in records}
    assert found.keys() == cases.keys()
    for name, (_, said) in cases.items():
        reason = found[name]["reason"]
        assert said in reason.lower()
        assert reason in done.stdout
        assert found[name]["history"] == []


def test_a_corrupt_weights_file_is_said(tmp_path: Path, sentences: Path) -> None:
    folder, _ = checkpoint(tmp_path / "weights")
    run = ["dataset=text", f"dataset.path={sentences}", "model=bert", f"model.path={folder}", "tracker=none"]
    run += ["dataset.max_length=32", "trainer.max_steps=2"]
    assert peftbench(*run, "sweep=whole", cwd=tmp_path).returncode == 0
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = peftbench(*run, "sweep=torn", "seed=1", cwd=tmp_path)
    assert done.returncode == 1
    assert f"model.path={folder}: the files there cannot be loaded" in done.stdout
