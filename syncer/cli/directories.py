"""Where the user's settings and caches are: the platform's own places (on Linux ``~/.config/syncer``)."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def config_directory() -> Path:
    """Where logins are kept."""
    return platformdirs.user_config_path("syncer", appauthor=False)


def cache_directory() -> Path:
    """What may be deleted at any time."""
    return platformdirs.user_cache_path("syncer", appauthor=False)
