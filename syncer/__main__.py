"""``python -m syncer`` is the command ``syncer``."""

import sys

from syncer.cli import main

sys.exit(main())
