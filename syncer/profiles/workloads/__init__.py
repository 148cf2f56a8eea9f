"""Files that say what runs: Kubernetes manifests and compose files."""
