"""Points at which a test can kill the process; each has a name, and costs one comparison in everyday use.

``SYNCER_FAILPOINT=bundle.written=kill@3`` kills the process, as a power failure would, when it reaches
``bundle.written`` for the third time.  Only tests use this: they need no sleeps that way.
"""

from __future__ import annotations

import itertools
import os
import signal


def _parse_setting(setting: str) -> tuple[str, int] | None:
    """The name of the point in ``setting``, and the number of the visit at which to kill."""
    name, _, action = setting.partition("=")
    verb, _, count = action.partition("@")
    return (name, int(count or 1)) if verb == "kill" else None


_ARMED = _parse_setting(os.environ.get("SYNCER_FAILPOINT", ""))
_VISITS = itertools.count(1)


def reach(name: str) -> None:
    """Mark the point ``name`` in the code: the process is killed here if the setting says so."""
    if _ARMED is not None and name == _ARMED[0] and next(_VISITS) == _ARMED[1]:
        os.kill(os.getpid(), signal.SIGKILL)
