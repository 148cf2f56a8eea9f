"""The bundle: content in one file, an OCI image layout inside (docs/design.md, "The bundle")."""

from syncer.bundle.framing import Format
from syncer.bundle.layout import GivenName, Image, blob_name, shown, write_index
from syncer.bundle.reader import Bundle, BundleUrl, bundle_place, open_archive, open_bundle
from syncer.bundle.slots import BundleSize
from syncer.bundle.verify import BundleCheck, check_structure, verify_bundle
from syncer.bundle.writer import BundleWriter, open_writer

__all__ = [
    "Bundle",
    "BundleCheck",
    "BundleSize",
    "BundleUrl",
    "BundleWriter",
    "Format",
    "GivenName",
    "Image",
    "blob_name",
    "bundle_place",
    "check_structure",
    "open_archive",
    "open_bundle",
    "open_writer",
    "shown",
    "verify_bundle",
    "write_index",
]
