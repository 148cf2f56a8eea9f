"""syncer moves container images where they are needed."""

__version__ = "0.1.0"
