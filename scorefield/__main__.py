"""The command `scorefield`, also as `python -m scorefield`."""

import os
import sys

from experiments import cli


def main() -> int:
    """Run the command; returns its exit status.

    After SIGINT it ends the process itself: where a compilation was interrupted, Python's own way out ends in a
    segmentation fault of jaxlib's.
    """
    status = cli.main()
    if status == cli.INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
