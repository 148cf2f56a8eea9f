"""Profiles, statements of what to mirror: each module turns files or answers of an API into references."""
