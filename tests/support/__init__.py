"""What tests stand on: generated images, real registries on loopback, certificates, and a client of its own.

Nothing here uses syncer's own client, so that no test checks that client with itself.
"""
