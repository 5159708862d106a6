"""Networks that others have published, as runs: their files read and checked, and a run's folder written."""
