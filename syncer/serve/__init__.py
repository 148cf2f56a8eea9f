"""A bundle, a directory, or the one beneath the other, as a registry."""

from syncer.serve.disk import Disk, open_disk
from syncer.serve.server import Address, Tls, serve
from syncer.serve.storage import Bundled, Layered, Storage, Writable

__all__ = ["Address", "Bundled", "Disk", "Layered", "Storage", "Tls", "Writable", "open_disk", "serve"]
