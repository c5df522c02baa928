"""What the fork server imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

CODE = """
import gc, os, signal, sys, threading, traceback
import torch

def asked(*arguments, **options):
    raise SystemExit("CUDA was asked before the fork")

exists = os.path.exists
os.path.exists = lambda path: path == "/dev/nvidiactl" or exists(path)
version, torch.version.cuda = torch.version.cuda, "13.0"
held = {name: getattr(torch.cuda, name) for name in ("is_available", "device_count", "_lazy_init")}
for name in held:
    setattr(torch.cuda, name, asked)
import peftbench.sweep.preload
assert {"peft", "transformers", "wandb", "peftbench.run"} <= set(sys.modules)
assert threading.active_count() == 1
assert "PYTHONSAFEPATH" not in os.environ  # of the server, not of what its runs start
assert {"peftbench.sweep.child", "peftbench.data.sst2", "peftbench.methods.hira"} <= set(sys.modules)
assert gc.get_freeze_count() > 100_000
os.path.exists, torch.version.cuda = exists, version
for name, function in held.items():
    setattr(torch.cuda, name, function)  # a run may ask
if (child := os.fork()) == 0:
    try:
        # On all cores, which waits for ever for threads that had been started before the fork.
        signal.alarm(60)
        torch.ones(10**6).add_(1)
        import bitsandbytes.nn
        import peft.helpers
        assert peft.helpers.bnb.nn is bitsandbytes.nn and bitsandbytes.nn.Linear4bit
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_the_fork_server_leaves_cuda_and_threads_alone_and_runs_have_all_they_need() -> None:
    """As on a machine with a GPU, and no nvidia-smi: bitsandbytes asks CUDA when imported, and PEFT imports it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONSAFEPATH": "peftbench"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ENGINE = """
import os, signal, sys
from multiprocessing import get_context

context = get_context("forkserver")
context.set_forkserver_preload(["peftbench.sweep.preload"])
process = context.Process(target=print)
process.start()
process.join()
assert any("wandb" in name for name in os.listdir(os.environ["TMPDIR"])), "then this test is not needed any more"
os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [0, signal.SIGKILL], ids=["it ends", "it is killed"])
def test_the_fork_server_leaves_no_temporary_folders_when_its_engine_is_gone(tmp_path, number: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ENGINE, str(int(number))], env=environment, check=False)
    assert done.returncode == -number
    deadline = time.monotonic() + 60
    while left := list(tmp_path.glob("*wandb*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
