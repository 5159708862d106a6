"""What was read, in a line: images, shape, classes, what is held out, what was passed over, the brightest value."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.data.source import Source
from experiments.names import counted, listed

DARK = 64
"""Brightest value of 8 bits up to which a data set is taken for one that was never scaled: masks of 0 and 1, numbers of
classes, grey levels of 4 to 6 bits, and of 10 to 14 bits in files of 16. A photograph reaches it almost anywhere."""


def summary(training: Source, held_out: Source | None) -> str:
    """One line on a data set that was divided; the classes have the numbers of images of both parts."""
    parts = [part for part in (training, held_out) if part is not None]
    count, shape = sum(map(len, parts)), "×".join(map(str, training.event_shape))
    if training.of_points:
        said = [f"{counted(count, 'point')} in {shape} dimensions"]
    else:
        said = [f"{counted(count, 'image')} of {shape}"]
    if training.labels is not None:
        counts = np.sum([part.class_counts for part in parts if part.labels is not None], axis=0)
        pairs = [f"{name} {many}" for name, many in zip(training.class_names, counts, strict=True) if many]
        said[0] += f" in {len(counts):,} class{'es' * (len(counts) > 1)} ({listed(pairs)})"
        absent = np.flatnonzero(np.equal(training.class_counts, 0)).tolist()
        if absent:
            said.append(f"no training image in the class{'es' * (len(absent) > 1)} {listed(ranges(absent))}")
    said[0] += f", {len(held_out):,} held out" if held_out is not None else ", none held out"
    said += training.notes
    if not training.of_points:
        seen = _seen(parts)
        said.append(f"brightest value {_range(parts)[1]}" + f" in {counted(seen, 'image')} looked at" * bool(seen))
    return f"{training.name}: {'; '.join(said)}"


def warnings(training: Source, held_out: Source | None) -> Iterator[str]:
    """Lines on what is hardly ever meant: images that are nearly black, or all the same."""
    if training.of_points:
        return
    parts = [part for part in (training, held_out) if part is not None]
    low, high = _range(parts)
    some = f"{counted(seen, 'image')} of " if (seen := _seen(parts)) else ""
    if low == high:
        yield f"every pixel of {some}{training.name} is {low}; there is nothing to learn."
        return
    white = np.iinfo(training.images.dtype).max
    if high * 255 <= DARK * white:
        yield (
            f"the brightest of all pixels of {some}{training.name} is {high} of {white}, so that the images are nearly "
            f"black; scale them so that white is {white}."
        )


def ranges(numbers: list[int]) -> list[str]:
    """Ascending numbers with runs of three and more as 1-4."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(number) for number in run])
    ]


def _seen(parts: list[Source]) -> int:
    """How many images `_range` is of, where it is not of all."""
    seen = sum(len(part.looked_at) for part in parts)
    return seen if seen < sum(map(len, parts)) else 0


def _range(parts: list[Source]) -> tuple[int, int]:
    ranges = [part.value_range for part in parts]
    return min(low for low, _ in ranges), max(high for _, high in ranges)
