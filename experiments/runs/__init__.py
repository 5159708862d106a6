"""A trained run: its model, where that comes from, and what its folder holds."""
