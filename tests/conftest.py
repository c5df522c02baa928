"""Fixtures that every part shares: generated text, composed configurations, and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import CONF, write_sentences

# Two cores are shared by the tests: threads that wait for each other by spinning would only be in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("text") / "sentences.csv")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PEFTBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def compose():
    """Compose and check a configuration from overrides, as the command line does."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from peftbench.cli.overrides import rewrite
    from peftbench.cli.paths import register_plugins
    from peftbench.sweep.grid import load

    register_plugins()

    def composed(*overrides: str, name: str = "config"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return load(hydra_compose(name, rewrite(overrides)))

    return composed


@pytest.fixture
def tiny_run(compose, sentences, tmp_path):
    """A run of a few steps on a tiny random network and generated text."""

    def configured(*overrides: str):
        return compose(
            "dataset=text",
            f"dataset.path={sentences}",
            "dataset.max_length=48",
            "model=tiny",
            "tracker=none",
            "device=cpu",
            "trainer.precision=fp32",
            "trainer.max_steps=6",
            "trainer.batch_size=8",
            "trainer.validations=2",
            f"output_dir={tmp_path}",
            *overrides,
        )

    return configured
