"""What the fork server imports once for all runs. Nothing here may touch CUDA or start a thread."""

import logging
import warnings

# It says at every import that an optional package of prebuilt kernels is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

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

    import peftbench.run  # noqa: F401
