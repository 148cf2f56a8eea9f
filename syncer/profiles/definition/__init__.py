"""The definition of a bundle: the requested content, and the digests and sizes that it was resolved to."""
