"""The bundle: content in one file, an OCI image layout inside (docs/design.md, "The bundle").

A name is imported when it is first used: a sync needs neither readers nor writers, and a push no writer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncer.bundle.delta import Assumed as Assumed
    from syncer.bundle.delta import AssumedBlob as AssumedBlob
    from syncer.bundle.delta import Assumption as Assumption
    from syncer.bundle.delta import Witness as Witness
    from syncer.bundle.framing import Format as Format
    from syncer.bundle.layout import DEFAULT_OUTPUT as DEFAULT_OUTPUT
    from syncer.bundle.layout import BundleUrl as BundleUrl
    from syncer.bundle.layout import GivenName as GivenName
    from syncer.bundle.layout import Image as Image
    from syncer.bundle.layout import blob_name as blob_name
    from syncer.bundle.layout import bundle_place as bundle_place
    from syncer.bundle.layout import shown as shown
    from syncer.bundle.layout import write_index as write_index
    from syncer.bundle.partial import check_disk as check_disk
    from syncer.bundle.reader import Bundle as Bundle
    from syncer.bundle.reader import BundleView as BundleView
    from syncer.bundle.reader import find_level as find_level
    from syncer.bundle.reader import open_archive as open_archive
    from syncer.bundle.reader import open_bundle as open_bundle
    from syncer.bundle.reader import refuse_delta as refuse_delta
    from syncer.bundle.slots import BundleSize as BundleSize
    from syncer.bundle.verify import BundleCheck as BundleCheck
    from syncer.bundle.verify import check_structure as check_structure
    from syncer.bundle.verify import verify_bundle as verify_bundle
    from syncer.bundle.writer import BundleWriter as BundleWriter
    from syncer.bundle.writer import Published as Published
    from syncer.bundle.writer import open_writer as open_writer

_HOMES = {
    "delta": ("Assumed", "AssumedBlob", "Assumption", "Witness"),
    "framing": ("Format",),
    "layout": (
        "DEFAULT_OUTPUT",
        "BundleUrl",
        "GivenName",
        "Image",
        "blob_name",
        "bundle_place",
        "shown",
        "write_index",
    ),
    "partial": ("check_disk",),
    "reader": ("Bundle", "BundleView", "find_level", "open_archive", "open_bundle", "refuse_delta"),
    "slots": ("BundleSize",),
    "verify": ("BundleCheck", "check_structure", "verify_bundle"),
    "writer": ("BundleWriter", "Published", "open_writer"),
}
_MODULES = {name: f"syncer.bundle.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [*_MODULES]  # noqa: PLE0604  (the names above)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
