"""Helm charts: repositories, their indexes, and the artifacts that charts become."""
