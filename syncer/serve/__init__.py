"""A bundle or a directory as a registry."""

from syncer.serve.disk import Disk, open_disk
from syncer.serve.server import Address, Tls, serve
from syncer.serve.storage import Storage, Writable

__all__ = ["Address", "Disk", "Storage", "Tls", "Writable", "open_disk", "serve"]
