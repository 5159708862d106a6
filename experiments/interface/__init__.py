"""Runs in Python: a trained one as an object with methods, a training as a loop. `import scorefield` gives both."""
