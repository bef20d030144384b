"""`nemotron4 VERB --help` from Hydra's own template, hydra.help.template of conf/common.yaml.

Hydra's way to list the groups looks through its search path afresh for each group and takes a second longer; the groups
shown here are those of conf/, without what --config-dir adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

import nemotron4_config.conf


def help_text(verb: str, overrides: Sequence[str]) -> str:
    """The text: what the verb is, the groups and their options, and every key with its value."""
    with initialize_config_module("nemotron4_config.conf", version_base="1.3"):
        config = compose(verb, list(overrides), return_hydra_config=True)
    template = str(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    return Template(template).substitute(APP_CONFIG_GROUPS=_groups(), CONFIG=OmegaConf.to_yaml(config))


def config_groups() -> dict[str, list[str]]:
    """The groups of conf/ and their options."""
    root = Path(str(nemotron4_config.conf.__file__)).parent
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name not in ("hydra", "__pycache__"))
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def _groups() -> str:
    return "\n".join(f"{group}: {', '.join(options)}" for group, options in config_groups().items())
