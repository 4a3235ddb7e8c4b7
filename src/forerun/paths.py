"""Where Forerun keeps files: a cache that may be deleted, data that may not, and settings.

`FORERUN_CACHE_DIR` and `FORERUN_DATA_DIR` name the folders themselves; otherwise the XDG base
directories hold a folder `forerun`.  Nothing is written to the working directory unless asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """What can be made again: compiled cores, results by content hash."""
    return _folder("CACHE", ".cache", env)


def data_dir(env: Mapping[str, str] | None = None) -> Path:
    """What cannot: measurements and hardware descriptions of the user's own."""
    return _folder("DATA", ".local/share", env)


def user_config(env: Mapping[str, str] | None = None) -> Path:
    """The settings file of the user, which may be absent."""
    return _folder("CONFIG", ".config", env) / "config.yaml"


def _folder(kind: str, usual: str, env: Mapping[str, str] | None) -> Path:
    env = os.environ if env is None else env
    if own := env.get(f"FORERUN_{kind}_DIR"):
        return Path(own).expanduser()
    if xdg := env.get(f"XDG_{kind}_HOME"):
        return Path(xdg) / "forerun"
    return Path(env.get("HOME") or Path.home()) / usual / "forerun"
