"""What the fork server imports once for all runs. Nothing here may touch CUDA or start a thread.

(The one of pyarrow's allocator is told of forks, and begins anew after them.)
"""

import atexit
import gc
import importlib.util
import logging
import os
import re
import signal
import sys
import types
import warnings
from typing import Any

from peftbench.cli.paths import CONF
from peftbench.interpreter import forget
from peftbench.sweep.orphans import end_with_parent
from peftbench.sweep.slots import may_have_gpus

BITSANDBYTES = "bitsandbytes"

# As the server does itself once it has imported this: Ctrl-C on the terminal is for the engine.
signal.signal(signal.SIGINT, signal.SIG_IGN)

# The engine's death is the server's, and the server's that of every run.
end_with_parent()

# It was for the server's own imports; what a run starts is as it would be anywhere.
forget()

# It says at every import that an optional package of prebuilt kernels is not installed.
logging.getLogger(BITSANDBYTES).setLevel(logging.ERROR)


class Later(types.ModuleType):
    """Stands for a package in modules that have imported it, until a run uses it."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            raise AttributeError(f"{self.__name__}.{name} is not for the fork server: only runs import it")
        return getattr(importlib.import_module(self.__name__), name)


def _put_off(name: str) -> None:
    """Leave the import of a package to the runs that use it: PEFT imports it and does not use it."""
    if (spec := importlib.util.find_spec(name)) is None:
        return
    stand_in = Later(name)
    stand_in.__spec__ = spec
    sys.modules[name] = stand_in
    os.register_at_fork(after_in_child=lambda: sys.modules.pop(name, None))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if may_have_gpus():
        # Importing it asks CUDA for the GPUs, after which no forked process could use one.
        _put_off(BITSANDBYTES)
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.metrics
    import sklearn.model_selection  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.bert.modeling_bert
    import transformers.models.distilbert.modeling_distilbert
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    import wandb.sdk.launch  # noqa: F401

    import peftbench.run
    import peftbench.sweep.child
    import peftbench.sweep.grid  # noqa: F401

# A configuration names classes, whose modules are light: an eighth of a second if each run had to import them.
for path in CONF.glob("*/*.yaml"):
    for target in re.findall(r"^\s*_target_:\s*(\S+)", path.read_text(encoding="utf-8"), flags=re.M):
        importlib.import_module(target.rpartition(".")[0])

# From here on in an orderly way: wandb has made two temporary folders, which are removed when Python exits.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
end_with_parent(signal.SIGTERM)

# Half a million objects that no run needs to look through; looking alone would copy the memory that they lie in.
gc.freeze()
