"""From a folder on the disk to a trained model, and to the data that it was trained on."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.file import load_config
from experiments.errors import CheckpointError, DataError, ScorefieldError, UsageError, reason, warn
from experiments.runs.model import Model

if TYPE_CHECKING:
    from experiments.data.source import Source
    from experiments.training.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointArguments:
    """Which checkpoint of a run, and which of its parameters."""

    run: Path
    """Folder of a run, or of one of its checkpoints."""
    ema: str = "0"
    """Which parameters: the number of an average, counted from 0, the relative width of one, such as 0.1, or raw."""
    best: bool = False
    """Take the checkpoint of the lowest held-out loss, not the newest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataArguments(CheckpointArguments):
    """Which checkpoint of a run, and where its data are."""

    data: str | None = None
    """URI of the run's data, where they have moved; they must be the same. [where the run has read them]"""


def load_run(arguments: CheckpointArguments, data: str | None = None) -> Model:
    """The model that was asked for; a line on standard error for each checkpoint that is passed over.

    `data` is the URI of the run's data, None for where the run has read them.
    """
    model = load_model(arguments.run, _average(arguments.ema), use_best=arguments.best, warn=warn)
    return dataclasses.replace(model, data=data)


def _average(word: str) -> int | float | None:
    """The average that `--ema` names: a number of digits alone counts them, one with a point is a width."""
    if word == "raw":
        return None
    if word.isascii() and word.isdecimal():
        return int(word)
    if re.fullmatch(r"[0-9]*\.[0-9]+", word, re.ASCII):
        return float(word)
    raise UsageError(
        f"--ema {word!r} is neither raw nor the number of an average, counted from 0, nor a relative width such as 0.1."
    )


def run_data(model: Model) -> tuple[Source, Source | None]:
    """The run's data as they are now: (training, held out).

    They are at the URI that the person gives, which must hold the same, or where the run has read them, from whatever
    folder that was.
    Raises DataError when they are not there, and when their shape or their classes are not those that the run was
    trained on; says so on standard error when only their contents have changed. Of a run from another machine, or from
    nobody knows where, which may mean other data by a path, no others are taken; where it kept nothing to compare them
    with, a line names them.
    """
    from experiments.data import divided
    from experiments.data.place import REMEDY, find

    config, facts, given = model.config.data, model.facts, model.data
    uri, elsewhere = (given, None) if given is not None else find(config.source, facts.place)
    training, held_out = divided(dataclasses.replace(config, source=uri))
    now, then = (training.event_shape, training.num_classes), (tuple(facts.event_shape), facts.num_classes)
    if model.imported is not None and not model.num_classes:  # which knows nothing of the classes of its data
        then = (then[0], now[1])
    if now != then:
        raise DataError(
            f"{uri} has images of {now[0]} in {now[1]} classes now, and this run was trained on {then[0]} in "
            f"{then[1]}; put the data of the run back, or {REMEDY}."
        )
    if training.fingerprint == facts.fingerprint:
        return training, held_out
    if not facts.fingerprint:
        if elsewhere is not None:
            warn(f"{uri} is taken for the data of this run, which was made on {elsewhere} and kept no fingerprint.")
        return training, held_out
    other = "holds other images or labels than this run was trained on"
    if given is not None:
        raise DataError(f"{given} {other}; give the run's own data.")
    if elsewhere is not None:
        raise DataError(f"{uri} here {other}, which was on {elsewhere}; {REMEDY}.")
    warn(f"{uri} has changed since this run was trained; the figures are those of what it is now.")
    return training, held_out


def training_part(model: Model) -> Callable[[], Source]:
    """What reads the training part of the run's data when it is asked, once; at once where a person says their place.

    So a place that is wrong is refused by commands too that need no data. Raises as `run_data` does.
    """
    read = functools.cache(lambda: run_data(model)[0])
    if model.data is not None:
        read()
    return read


def load_model(
    place: Path, average: int | float | None = 0, *, use_best: bool = False, warn: Callable[[str], None] = print
) -> Model:
    """The model of a run's folder, or of one checkpoint's folder.

    For a run it is that of the newest checkpoint that can be trusted (`warn` is given a line for each that cannot), or
    with `use_best` that of the lowest held-out loss; a checkpoint that is asked for by name is refused when damaged.
    `average` is the index of the averaged parameters, None the raw ones; a float is the relative width of one that was
    kept while training, or made by `scorefield ema`.

    Raises CheckpointError when there is no checkpoint, or it is damaged, and UsageError when it has no such average.
    """
    # Not above: reading arguments needs this module, and answers a mistyped one without the libraries of training.
    from experiments.training.checkpoint import PATIENCE

    for _ in range(1 if _is_checkpoint(place) else PATIENCE):
        found = choose(place, use_best, warn)
        try:
            return _load(found, average)
        except CheckpointError:
            if found.path.exists():
                raise  # otherwise its training has removed it, and there is a newer one
    raise CheckpointError(
        f"{place} has vanished while it was read; a training removes old checkpoints: raise its --training.keep-last."
    )


def _load(found: Checkpoint, average: int | float | None) -> Model:
    """The model of a checkpoint. Raises CheckpointError for whatever is wrong with it, UsageError for the average."""
    from experiments.runs.averages import load_average
    from experiments.training import checkpoint as checkpoints
    from experiments.training.ema import place_of
    from experiments.training.imported import imported_from
    from experiments.training.model import network_of
    from experiments.training.warm_start import recorded

    path = found.path
    tree, digest = checkpoints.load(path)
    config, facts = load_config(path / "config.json"), found.facts()
    try:
        averages, raw, step = tree["ema"], tree["params"], int(tree["step"])
        count = len(averages)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lacks arrays of a run ({reason(error)}); restore it, or use another.") from None
    number = place_of(config.ema, average) if isinstance(average, float) else average
    if number is not None and str(number) not in averages:
        raise UsageError(f"--ema {average} does not exist; {path} has {count} average(s), counted from 0, and raw.")
    try:
        network = network_of(config, facts)
    except ScorefieldError:
        raise
    except Exception as error:  # whatever numbers that no network was ever trained with may do
        raise CheckpointError(f"{path} holds no network that can be made ({reason(error)}); restore it.") from None
    if isinstance(average, float) and number is None:
        params, digest = load_average(path, digest, average, raw)
    else:
        params = raw if number is None else averages[str(number)]
    origins = {"origin": recorded(path), "imported": imported_from(path)}
    return Model(config, facts, network, params, path, step, digest, average, **origins)


def _is_checkpoint(place: Path) -> bool:
    from experiments.training.manifest import NAME

    return (place / NAME).exists()


def choose(place: Path, use_best: bool, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint of a run's folder, or the one whose folder it is, as `load_model` chooses it, not read yet.

    Raises CheckpointError when there is none that can be trusted, UsageError for the best of one.
    """
    from experiments.training import checkpoint as checkpoints

    if _is_checkpoint(place):
        if use_best:
            raise UsageError(
                f"--best chooses among a run's checkpoints, and {place} is a single one; give the run's folder."
            )
        return checkpoints.describe(place)
    directory = place / "checkpoints"
    found = checkpoints.best(directory, warn) if use_best else checkpoints.newest_trusted(directory, warn)
    if use_best and found is not None and found.sound and found.held_out_loss is None:
        warn(f"no held-out loss was measured in {place}; --best takes the newest checkpoint.")
    if found is None:
        if not place.exists():
            raise CheckpointError(f"{place} does not exist; give the folder that `scorefield train` wrote.")
        raise CheckpointError(f"{place} holds no checkpoint that can be trusted; train it, or give another folder.")
    return found
