"""Documents that people write: YAML with lines, checked models, versions, units, lists of images.  No network."""
