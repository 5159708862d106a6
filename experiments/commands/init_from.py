"""What `train --init-from RUN` begins with: the configuration of that run, on other data and of another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.commands.options import take_flag
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.training.kept import run_config, run_source

if TYPE_CHECKING:
    from experiments.training.data import Facts
    from experiments.training.warm_start import InitFrom


def initial_config(source: Path, argv: Sequence[str]) -> Config:
    """The configuration to which the flags `argv` are added: the source's, or of a run that is there its own.

    Other data are brought to the size of the source's, and to its colours; --data.size says otherwise. Its own are
    found from whatever folder it was begun in. Raises UsageError for a source that is not there, CheckpointError for
    one that cannot be read.
    """
    outdir, _ = take_flag(argv, "--outdir")
    if outdir is not None and is_begun(Path(outdir)):
        return run_config(Path(outdir))
    if not source.is_dir():
        raise UsageError(f"--init-from {source} is no folder; give that of a run, or of one of its checkpoints.")
    config = run_config(source)
    words = {word.partition("=")[0] for word in argv}
    if words.isdisjoint(("--data", "--data.source")):
        run = source.parent.parent if source.parent.name == "checkpoints" else source
        return replace(config, data=replace(config.data, source=run_source(run, config)))
    shape = _event_shape(source)
    data = replace(config.data, label_column=None)
    uri = take_flag(argv, "--data")[0] or take_flag(argv, "--data.source")[0] or ""
    if uri.startswith("plane:"):  # points, of which nothing here can be said; that they are no images is said later
        return replace(config, data=replace(data, size=None, channels=None, flip=False))
    if data.size is None and len(shape) == 3 and shape[0] == shape[1]:
        data = replace(data, size=shape[0])
    if data.channels is None and shape[-1] == 3 == len(shape):
        data = replace(data, channels=3)
    return replace(config, data=data)


def is_begun(outdir: Path) -> bool:
    """Whether a run in this folder goes on, and does not begin."""
    folder = outdir / "checkpoints"
    return folder.is_dir() and any(path.name.isascii() and path.name.isdecimal() for path in folder.iterdir())


def init_of(place: Path | None, ema: str) -> InitFrom | None:
    """The source that the flags name."""
    from experiments.training.warm_start import InitFrom

    return None if place is None else InitFrom(place, None if ema == "raw" else int(ema))


def require_start(init: InitFrom | None, argv: Sequence[str], outdir: Path) -> None:
    """Raise, before any data are read, what can be said of how a run begins, to which the flags `argv` belong.

    That is UsageError where its processes were told to begin it in different ways, each of which would wait for what
    the others never say, and what `find_source` raises of a source that is not there.
    """
    from experiments.training.distributed import require_alike
    from experiments.training.warm_start import begun_by, require_source

    begun = is_begun(outdir)
    require_alike({**begun_by(init), "in its --outdir": "a run" if begun else "no run"})
    if init is not None and not begun:
        require_alike({flag: take_flag(argv, flag)[0] for flag in ("--preset", "--config")})
        require_source(init)


def fitted(config: Config, init: InitFrom, facts: Facts) -> Config:
    """`config`, made from the source's, with its network fitted to the size of the data. Raises as `find_source`."""
    from experiments.training.warm_start import find_source, following

    found = find_source(init)
    return following(config, run_config(found.path), found.facts(), facts)


def report(init: InitFrom, config: Config, facts: Facts) -> dict[str, Any]:
    """What a run of `config` would begin with, as JSON values. Raises UsageError where it could not."""
    import jax
    import numpy as np

    from experiments.training.model import network_of
    from experiments.training.warm_start import begin, read_source

    shapes = jax.eval_shape(network_of(config, facts).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return begin(read_source(init), config, facts, params)[1].summary()


def _event_shape(source: Path) -> tuple[int, ...]:
    from experiments.training.warm_start import InitFrom, find_source

    return find_source(InitFrom(source)).facts().event_shape
