"""Training: a pure step, the loop that spreads it over devices, and what survives the process."""
