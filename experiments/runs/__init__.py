"""A trained run: its network, where it came from, what can be loaded from its folder and kept in it."""
