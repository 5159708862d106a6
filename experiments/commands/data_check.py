"""`scorefield data check`: what a training would read of a data set, and what not and why."""

from __future__ import annotations

import dataclasses
import json

from experiments.commands.data_options import ReadingArguments, read_arguments
from experiments.data.check import Report, check
from experiments.names import counted, listed
from experiments.progress import reporting

DESCRIPTION = """\
Say what a training would read: images, shape, classes, what is held out; what is passed over and converted; and every
picture that is refused, with the reason.

  scorefield data check folder:photos --size 64

The options are those of `scorefield train --data.*`. The exit status is 3 where a training would refuse the data.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckArguments(ReadingArguments):
    """The arguments of `scorefield data check`."""

    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress."""


def run(argv: list[str]) -> int:
    """Check a data set; returns the exit status."""
    arguments = read_arguments(CheckArguments, argv, "scorefield data check", DESCRIPTION)
    with reporting(quiet=arguments.quiet or arguments.json):
        report = check(arguments.config())
    print(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}) if arguments.json else told(report))
    return 0 if report.ok else 3


def told(report: Report) -> str:
    """The report in lines."""
    lines = []
    if report.images:
        what = "point" if len(report.shape) == 1 else "image"
        lines.append(
            f"{report.source}: {counted(report.images, what)} of {'×'.join(map(str, report.shape)) or 'several sizes'}"
        )
        if report.classes:
            counts = [f"{name} {count:,}" for name, count in report.classes.items()]
            kinds = "class" if len(counts) == 1 else "classes"
            lines.append(f"  {len(counts):,} {kinds}: {listed(counts, 1000)}")
        lines.append(f"  held out: {report.held_out:,}")
    lines += [f"  note: {note}" for note in report.passed_over]
    lines += [f"  converted: {count:,} {what}" for what, count in report.converted.items()]
    lines += [f"  left out: {sentence}" for sentence in report.left_out]
    lines += [f"  warning: {sentence}" for sentence in report.warnings]
    lines += [f"  refused: {sentence}" for sentence in report.refused]
    verdict = "take" if report.ok else "refuse"
    remedy = "; with --data.on-bad skip it would leave out what is refused" * report.skippable
    return "\n".join([*lines, f"A training would {verdict} these data{remedy}."])
