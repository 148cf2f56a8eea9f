"""Documents that people write: YAML with lines, models that check fields, versions, units, lists.  No network."""
