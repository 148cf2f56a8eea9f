"""The bundle: content in one file, an OCI image layout inside (docs/design.md, "The bundle")."""

from syncer.bundle.delta import Assumed, AssumedBlob, Assumption, Witness
from syncer.bundle.framing import Format
from syncer.bundle.layout import DEFAULT_OUTPUT, GivenName, Image, blob_name, shown, write_index
from syncer.bundle.partial import check_disk
from syncer.bundle.reader import (
    Bundle,
    BundleUrl,
    BundleView,
    bundle_place,
    find_level,
    open_archive,
    open_bundle,
    refuse_delta,
)
from syncer.bundle.slots import BundleSize
from syncer.bundle.verify import BundleCheck, check_structure, verify_bundle
from syncer.bundle.writer import BundleWriter, Published, open_writer

__all__ = [
    "DEFAULT_OUTPUT",
    "Assumed",
    "AssumedBlob",
    "Assumption",
    "Bundle",
    "BundleCheck",
    "BundleSize",
    "BundleUrl",
    "BundleView",
    "BundleWriter",
    "Format",
    "GivenName",
    "Image",
    "Published",
    "Witness",
    "blob_name",
    "bundle_place",
    "check_disk",
    "check_structure",
    "find_level",
    "open_archive",
    "open_bundle",
    "open_writer",
    "refuse_delta",
    "shown",
    "verify_bundle",
    "write_index",
]
