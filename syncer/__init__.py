"""syncer moves container images and Helm charts to where they are needed.

A program calls these functions; the command line is a thin layer over them::

    built = await syncer.build(["busybox:1.37"], name="edge", output="bundles")
    pushed = await syncer.push(built.path, "10.0.0.1:8000/images")
    checked = await syncer.verify(built.path, "10.0.0.1:8000/images")
    deployed = await syncer.deploy(built.path, ["10.0.0.1:8000/images", "10.0.0.2:8000/images"])
    mirrored = await syncer.sync("sync.yaml")

Each returns a result with an ``exit`` code and an account of what happened.  A call that cannot begin, because
an argument or a file is wrong, raises a ``SyncerError``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncer.api.build import build as build
    from syncer.api.bundles import open_checked
    from syncer.api.plan import plan as plan
    from syncer.api.push import push as push
    from syncer.api.result import BuildResult as BuildResult
    from syncer.api.result import PushResult as PushResult
    from syncer.api.sync import Mirroring as Mirroring
    from syncer.api.sync import SyncResult as SyncResult
    from syncer.api.sync import sync as sync
    from syncer.api.verify import VerifyResult as VerifyResult
    from syncer.api.verify import verify as verify
    from syncer.errors import Exit as Exit
    from syncer.errors import SyncerError as SyncerError
    from syncer.fleet.deploy import deploy as deploy
    from syncer.fleet.result import FleetResult as FleetResult
    from syncer.fleet.result import SiteResult as SiteResult
    from syncer.fleet.result import SiteState as SiteState
    from syncer.naming import NameMapping as NameMapping
    from syncer.oci import Digest as Digest
    from syncer.oci import Platform as Platform
    from syncer.oci import Reference as Reference
    from syncer.profiles.syncfile.site import Site as Site
    from syncer.registry import RegistrySettings as RegistrySettings
    from syncer.report.progress_meter import Measurement as Measurement
    from syncer.report.progress_meter import ProgressMeter as ProgressMeter
    from syncer.transfer import events as events

    open_bundle = open_checked


__version__ = "0.1.0"

_HOMES = {
    "build": "syncer.api.build",
    "push": "syncer.api.push",
    "verify": "syncer.api.verify",
    "sync": "syncer.api.sync",
    "deploy": "syncer.fleet.deploy",
    "plan": "syncer.api.plan",
    "open_bundle": "syncer.api.bundles:open_checked",
    "BuildResult": "syncer.api.result",
    "PushResult": "syncer.api.result",
    "VerifyResult": "syncer.api.verify",
    "Mirroring": "syncer.api.sync",
    "SyncResult": "syncer.api.sync",
    "FleetResult": "syncer.fleet.result",
    "SiteResult": "syncer.fleet.result",
    "SiteState": "syncer.fleet.result",
    "Exit": "syncer.errors",
    "SyncerError": "syncer.errors",
    "Digest": "syncer.oci",
    "Platform": "syncer.oci",
    "Reference": "syncer.oci",
    "NameMapping": "syncer.naming",
    "Site": "syncer.profiles.syncfile.site",
    "RegistrySettings": "syncer.registry",
    "Measurement": "syncer.report.progress_meter",
    "ProgressMeter": "syncer.report.progress_meter",
    "events": "syncer.transfer.events:",  # the module itself
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  (the names above)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``syncer version`` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, colon, known_as = _HOMES[name].partition(":")
    module = importlib.import_module(home)
    return module if colon and not known_as else getattr(module, known_as or name)
