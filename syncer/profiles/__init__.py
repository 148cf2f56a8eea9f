"""What to mirror: each module turns something that people have into references."""
