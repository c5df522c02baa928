"""Many points of one configuration: what only depends on the chosen files is composed once for all of them.

Hydra composes in two steps: the files that the groups choose, then the values written on the command line. Done by
Hydra itself, the first step costs a tenth of a second a point, and a grid has far fewer choices of files than points.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override


class Composer:
    """Composes points as Hydra's ``load_sweep_config`` does, without the ``hydra`` node.

    Args:
        master: the sweep's own configuration, as Hydra hands it to a sweeper.
    """

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._files: dict[tuple[str, ...], bytes] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration that these overrides make.

        Raises:
            hydra.errors.HydraException: there is no such option or file.
        """
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        values = [text for text in overrides if self._is_value(text)]
        # Pickled, because that is copied eight times as fast.
        config = pickle.loads(self._base(tuple(text for text in overrides if text not in values)))
        # As Hydra itself does it; it has no public name for this step.
        ConfigLoaderImpl._apply_overrides_to_config([self._parse(text) for text in values], config)
        return cast("DictConfig", config)

    def _base(self, choices: tuple[str, ...]) -> bytes:
        if choices not in self._files:
            config = self._loader.load_sweep_config(self._master, list(choices))
            base = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            OmegaConf.set_struct(base, True)  # as Hydra does: an option that there is not is an error
            self._files[choices] = pickle.dumps(base, pickle.HIGHEST_PROTOCOL)
        return self._files[choices]

    def _is_value(self, text: str) -> bool:
        """Whether an override only sets a value; all others (groups, Hydra's own) may change which files are read."""
        override = self._parse(text)
        if override.is_hydra_override() or override.is_sweep_override() or override.package is not None:
            return False
        return isinstance(override.value(), dict) or not self._loader.repository.group_exists(override.key_or_group)

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            (self._parsed[text],) = self._parser.parse_overrides([text])
        return self._parsed[text]
