"""What syncer costs, beside what its peers cost: see README.md here."""
