"""The command `scorefield`, also as `python -m scorefield`."""

from experiments.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
