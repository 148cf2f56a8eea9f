"""The values of the OCI specifications: digest, reference, descriptor, manifest, platform.  No I/O, no await."""

from syncer.oci.descriptor import Descriptor, Digest, Platform
from syncer.oci.manifest import Index, Manifest, parse_manifest
from syncer.oci.reference import Reference

__all__ = ["Descriptor", "Digest", "Index", "Manifest", "Platform", "Reference", "parse_manifest"]
