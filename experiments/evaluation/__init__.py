"""How good samples are: a feature space learned from the data itself, and distances in it with error bars."""
