"""Cluster profiles and packs of Spectro Cloud's Palette, from its API or from files."""
