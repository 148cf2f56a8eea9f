"""The sync file: sources, targets, and the rules that select tags."""
