"""The entry point: ``peftbench method=hira rank=8`` is one run, ``-m`` a grid, ``-cn NAME`` a named sweep."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from peftbench import __version__
from peftbench.cli.messages import explain
from peftbench.cli.overrides import command, flags_first, rewrite
from peftbench.cli.paths import CONF, register_plugins
from peftbench.cli.refuse import refuse_ignored, refuse_sweeper, refuse_without_effect
from peftbench.console import print_anything
from peftbench.errors import UserError

composed: list[tuple[DictConfig, Any]] = []
"""What was composed, and Hydra's own part of it."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose(config: DictConfig) -> None:
    """Without ``-m``: keep what was composed for `main`; raised in here, an error would be printed twice."""
    composed.append((config, HydraConfig.get()))


def main() -> None:
    """Compose, check, carry out; exit with 0 (all ok), 1 (a run was not), 2 (wrong input) or 130 (interrupted)."""
    if sys.argv[1:] == ["--version"]:  # Hydra would tell its own
        print(f"peftbench {__version__}")
        return
    print_anything()
    register_plugins()
    # Ended politely, the engine ends its run and writes what became of it, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Hydra then raises its errors instead of printing them, and they can be said in one sentence.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = rewrite(flags_first(sys.argv[1:]))
        refuse_without_effect(sys.argv[1:])
        compose()
        if composed:
            from peftbench.sweep.command import carry_out
            from peftbench.sweep.grid import single_point
            from peftbench.sweep.slurm.options import chosen

            config, hydra_config = composed.pop()
            refuse_sweeper(hydra_config.mode, hydra_config.overrides.hydra)
            refuse_ignored(hydra_config, multirun=False)
            point = single_point(config, command(hydra_config, hydra_config.overrides.task))
            carry_out([point], launcher=chosen(hydra_config.launcher))
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        print(f"peftbench: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        again = any(argument.lstrip("+").lower() == "engine.rerun=true" for argument in sys.argv)
        how = "without engine.rerun the same command goes on" if again else "the same command goes on"
        print(f"peftbench: interrupted; {how} from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
