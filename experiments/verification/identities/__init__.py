"""One file for each topic; each registers its rows."""
