"""Images of another source than the run's, read by the run's rules for a command that measures them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from experiments.data.config import DataConfig
from experiments.errors import UsageError

if TYPE_CHECKING:
    from experiments.data.source import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherData:
    """How the images of --data are read, as in `scorefield train`."""

    size: int | str | None = None
    """Height and width in pixels that every image is brought to, as 64 or 48x64."""
    crop: Literal["center", "none", "pad"] = "center"
    """How an image of other proportions is brought to them: by its central part, by squeezing all of it, or by fitting
    all of it in and repeating its edges."""
    channels: int | None = None
    """1 for grey, 3 for RGB. [the run's]"""


def require_source(uri: str | None, options: OtherData) -> None:
    """Raise UsageError for options of a source that is not there."""
    if uri is None and options != OtherData():
        raise UsageError("--data.size, --data.crop and --data.channels are of another source; add --data URI.")


def other_source(uri: str, options: OtherData, shape: tuple[int, ...], config: DataConfig) -> Source:
    """The test split of another source, or all of it, read by the rules of the run whose `config` this is.

    Raises UsageError unless its images have the shape of the run's.
    """
    from experiments.data import open_source

    channels = options.channels
    if channels is None and len(shape) > 1 and shape[-1] in (1, 3):
        channels = 1 if shape[-1] == 1 else 3
    read = {"size": options.size, "crop": options.crop, "channels": channels}
    whole = open_source(DataConfig(source=uri, rules=config.rules, bits=config.bits, **read))
    source = whole.held_out or whole
    if source.event_shape != shape:
        ours, theirs = ("×".join(map(str, part)) for part in (shape, source.event_shape))
        raise UsageError(f"--data {uri} holds {theirs}, and this run is of {ours}; give --data.size, or other data.")
    return source
