"""Named points at which a test may end a run; in everyday use each costs one comparison.

``SYNCER_FAILPOINT=bundle.written=kill@3`` kills the process, as a power failure would, when it comes to
``bundle.written`` for the third time.  It is for tests, which need no sleeps that way, and for nobody else.
"""

from __future__ import annotations

import itertools
import os
import signal


def _parse_setting(setting: str) -> tuple[str, int] | None:
    """The point that ``setting`` names, and the visit that it means."""
    name, _, action = setting.partition("=")
    verb, _, count = action.partition("@")
    return (name, int(count or 1)) if verb == "kill" else None


_ARMED = _parse_setting(os.environ.get("SYNCER_FAILPOINT", ""))
_VISITS = itertools.count(1)


def reach(name: str) -> None:
    """Say that the run has come to the point ``name``."""
    if _ARMED is not None and name == _ARMED[0] and next(_VISITS) == _ARMED[1]:
        os.kill(os.getpid(), signal.SIGKILL)
