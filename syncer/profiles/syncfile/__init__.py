"""The sync file: sources, targets, and the rules that choose tags."""
