"""The definition of a bundle: the content that was asked for, and what it was resolved to."""
