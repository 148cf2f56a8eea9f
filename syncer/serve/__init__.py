"""A bundle or a directory as a registry."""
