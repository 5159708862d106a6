"""The equations of score-based models as a table of checks: `registry`, and one file of `identities` for each topic."""
