"""What the fork server imports once for all runs. Nothing here may touch CUDA or start a thread."""

import importlib.util
import logging
import sys
import warnings

from peftbench.sweep.orphans import end_with_parent
from peftbench.sweep.slots import gpus

# The engine's death is the server's, and the server's that of every run.
end_with_parent()

# It says at every import that an optional package of prebuilt kernels is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if gpus() and (spec := importlib.util.find_spec("bitsandbytes")) is not None and spec.loader is not None:
    # Its import asks CUDA for the GPUs, after which no forked process could use one: a run imports it once it uses it.
    spec.loader = importlib.util.LazyLoader(spec.loader)
    sys.modules["bitsandbytes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bitsandbytes"])

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
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

    # Python imports the script that was started (``bin/peftbench``) in every process again, and that imports this.
    import peftbench.__main__
    import peftbench.run  # noqa: F401
