"""Training: a pure step, the programs that spread it over devices, the loop, and what survives the process."""
