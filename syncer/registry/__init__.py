"""One end: a registry, spoken to by the OCI distribution spec."""
