"""The engine: discovery, plan, run, events.  It knows Source, Target and the OCI values, nothing else."""
