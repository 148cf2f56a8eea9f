"""HTTP with manners: connections, per-host limits, retry, pauses, redirects, redaction."""
