"""Lists of seeds as they are typed on a command line."""

from __future__ import annotations

from experiments.errors import UsageError, warn
from experiments.sampling.seeds import Seeds


def parse_seeds(text: str) -> Seeds:
    """The integers of "0-63", "3", or "1,5,10-12".

    Raises UsageError for anything else, and for a seed given twice. A single number may be meant as how many there are:
    a line on standard error says that it is one seed.
    """
    ranges: list[range] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        numbers = [low, high] if dash else [low]
        if not all(number.isascii() and number.isdecimal() for number in numbers) or int(numbers[-1]) < int(low):
            raise UsageError(f"--seeds {text!r} is not a list of seeds; write 0-63, or 1,5,10-12.")
        if int(numbers[-1]) >= 2**31:
            raise UsageError(f"--seeds {text!r} holds a seed of 2^31 or more; choose smaller ones.")
        ranges.append(range(int(low), int(high or low) + 1))
    try:
        seeds = Seeds(ranges)
    except ValueError:
        raise UsageError(f"--seeds {text!r} names a seed twice; every image has a seed of its own.") from None
    if len(seeds) == 1 and seeds[0] > 1:
        warn(f"--seeds {text} is one seed; 0-{seeds[0] - 1} are the first {seeds[0]}.")
    return seeds
