"""The identities: one file for each topic, whose import registers its rows."""
