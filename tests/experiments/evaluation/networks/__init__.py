"""Networks of features from files."""
