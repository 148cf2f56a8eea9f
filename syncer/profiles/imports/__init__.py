"""Files of other tools as sync files."""
