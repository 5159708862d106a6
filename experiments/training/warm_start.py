"""A run that begins from the parameters of another: which it may begin from, what it takes, and what it notes of it.

The first thing that such a run writes is a checkpoint of step 0. So it goes on from its own checkpoints whatever
becomes of the source, and each of them says where the parameters came from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.networks.configs import NetworkConfig
from experiments.config.choices import spelt_at
from experiments.config.nodes import Generator
from experiments.config.tree import Config
from experiments.errors import CheckpointError, Refusals, UsageError, reason, refuse, warn
from experiments.names import flag_of, listed
from experiments.training import ema
from experiments.training.carry import Carried, carry_over
from experiments.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    describe,
    find_checkpoints,
    load,
    newest_trusted,
)
from experiments.training.data import Facts
from experiments.training.distributed import from_process_0
from experiments.training.imported import KEY as IMPORTED
from experiments.training.imported import Imported, imported_from
from experiments.training.kept import run_config
from experiments.training.manifest import NAME as MANIFEST
from experiments.training.state import Params

KEY = "init_from"
"""The name of the record in checkpoint.json."""


@dataclass(frozen=True)
class InitFrom:
    """The run whose parameters are begun from."""

    place: Path
    """Folder of a run, of which the newest checkpoint is meant, or of one of its checkpoints."""
    average: int | None = 0
    """Which average of its parameters, counted from 0; None for the raw ones."""

    @property
    def parameters(self) -> str:
        """Which parameters these are, in words: "raw", "average 0"."""
        return "raw" if self.average is None else f"average {self.average}"


@dataclass(frozen=True)
class Origin:
    """What a run notes of the one that it began from."""

    run: str
    """Its folder, from the root; that of the checkpoint where it was copied out of its run."""
    checkpoint: str
    step: int
    sha256: str
    """Of the checkpoint's manifest, and so of every byte in it."""
    parameters: str
    """Which of its parameters: "average 0", "raw"."""
    carried: tuple[str, ...]
    """The arrays that were carried over."""
    new: tuple[str, ...]
    """The arrays that were begun anew."""
    known_classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    imported: Imported | None = None
    """The files that the run was made from, or the run that it began from, if they were somebody else's."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        said = dataclasses.asdict(self)
        return said if self.imported is not None else {name: said[name] for name in said if name != IMPORTED}

    @staticmethod
    def from_json(value: Any) -> Origin:
        """The inverse of `to_json`. Raises ValueError for what was never written."""
        names = [field.name for field in dataclasses.fields(Origin)]
        if not isinstance(value, Mapping) or {*value, IMPORTED} != {*names}:
            raise ValueError(f"{KEY} is no record of a source")
        said: dict[str, Any] = {
            name: tuple(value[name]) if isinstance(value[name], list) else value[name] for name in value
        }
        if IMPORTED in said:
            said[IMPORTED] = Imported.from_json(said[IMPORTED])
        origin = Origin(**said)
        lists = (origin.carried, origin.new, origin.known_classes, origin.new_classes)
        texts = [origin.run, origin.checkpoint, origin.sha256, origin.parameters]
        if type(origin.step) is not int or not all(isinstance(one, tuple) for one in lists):
            raise ValueError(f"{KEY} has fields of other types")
        if not all(isinstance(text, str) for text in (*texts, *(text for one in lists for text in one))):
            raise ValueError(f"{KEY} has fields of other types")
        return origin

    def summary(self) -> dict[str, Any]:
        """The record for reports and pictures: of the arrays that were carried over it has the number alone."""
        said = {key: value for key, value in self.to_json().items() if key != "carried"}
        return {**said, "carried": f"{len(self.carried)} of {len(self.carried) + len(self.new)} arrays"}

    def told(self) -> list[str]:
        """What was carried over, and what begins anew, in a line each."""
        count, classes = len(self.carried) + len(self.new), ""
        if self.known_classes or self.new_classes:
            classes = f"; classes it knows: {listed(self.known_classes) or 'none'}"
            classes += f", classes that begin as no class: {listed(self.new_classes) or 'none'}"
        arrays = f"the arrays {listed(self.new)}, " if self.new else ""
        return [
            f"begun from {self.checkpoint} ({self.parameters}): {len(self.carried)} of {count} arrays carried over"
            f"{classes}",
            f"new: {arrays}the optimiser, its schedule and the count of steps",
        ]


@dataclass(frozen=True)
class Source:
    """A run's network as it is begun from."""

    config: Config
    facts: Facts
    params: Params
    path: Path
    step: int
    digest: str
    parameters: str
    imported: Imported | None = None
    """The files of somebody else's that the parameters come from, at once or by the run that this one began from."""

    @property
    def run(self) -> Path:
        """The folder of the run, or of the checkpoint where that was copied out of it."""
        return _run_of(self.path)


def find_source(init: InitFrom) -> Checkpoint:
    """The checkpoint that is begun from; process 0 chooses for all.

    Raises CheckpointError for a folder that is not there, or holds no checkpoint that can be trusted.
    """
    place, newest = init.place, -1
    if (place / MANIFEST).exists():
        return describe(place)
    if jax.process_index() == 0:
        found = newest_trusted(place / "checkpoints", warn)
        newest = -1 if found is None else found.step
    newest = int(from_process_0(np.asarray(newest)))
    if newest < 0:
        what = "holds no checkpoint that can be trusted" if place.is_dir() else "does not exist"
        raise CheckpointError(f"--init-from {place} {what}; give the folder of a run that has been trained.")
    return describe(checkpoint_path(place / "checkpoints", newest))


def begun_by(init: InitFrom | None) -> dict[str, str | None]:
    """What all processes of a run have in common of the source that it begins from, by its flag."""
    return {"--init-from": None if init is None else f"{init.place} ({init.parameters})"}


def require_source(init: InitFrom) -> None:
    """Raise, before any data are read, what `read_source` would for a source or an average that is not there."""
    path = find_source(init).path
    _require_average(init, ema.count(run_config(path).ema), path)


def _require_average(init: InitFrom, count: int, path: Path) -> None:
    if init.average is not None and init.average >= count:
        raise UsageError(f"--init-ema {init.average} does not exist; {path} has {count}, counted from 0, and raw.")


def read_source(init: InitFrom) -> Source:
    """What is begun from, which every process reads. Raises as `find_source`, and UsageError for an unknown average."""
    path = find_source(init).path
    tree, digest = load(path)
    try:
        averages, raw, step = tree["ema"], tree["params"], int(tree["step"])
        _require_average(init, len(averages), path)
        params = raw if init.average is None else averages[str(init.average)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} lacks arrays of a run ({reason(error)}); give another.") from None
    facts = describe(path).facts()
    before = recorded(path)
    imported = imported_from(path) if before is None else before.imported
    return Source(run_config(path), facts, params, path.resolve(), step, digest, init.parameters, imported)


def begin(source: Source, config: Config, facts: Facts, params: Params) -> tuple[Params, Origin]:
    """(The initial parameters of a run of `config` on data of `facts`, what it notes of their source).

    `params` are those that it would begin with by itself. Raises UsageError for a source of another kind.
    """
    require_kin(source, config, facts)
    classes = [_classes(one, of) for one, of in ((source.config, source.facts), (config, facts))]
    try:
        params, carried = carry_over(source.params, params, *classes)
    except CheckpointError as error:
        raise UsageError(f"--init-from {source.run} does not fit: {error}") from None
    return params, _origin(source, carried)


def require_kin(source: Source, config: Config, facts: Facts) -> None:
    """Raise UsageError where the network of `config` cannot have the source's parameters.

    What they are asked for from now on, and were not trained for, is told in a line: it may change.
    """
    refuse(_refused_kinds(source, config, facts))
    fitting = source.config.network.resized(source.facts.event_shape, facts.event_shape)
    chosen = config.network.resized(facts.event_shape, facts.event_shape)
    for name in _fields(fitting):
        wanted, given = getattr(fitting, name), getattr(chosen, name)
        if wanted != given and name not in fitting.indifferent:
            value = " ".join(map(str, wanted)) if isinstance(wanted, tuple) else wanted
            raise UsageError(
                f"the parameters of {source.run} do not fit --network.{flag_of(name)} {given}; give {value}, or leave "
                "--init-from out."
            )
    for name in ("schedule", "noise", "preconditioning"):
        if getattr(source.config, name) != getattr(config, name):
            warn(f"--{name} is not that of {source.run}, whose network is asked for something else from now on.")


def _refused_kinds(source: Source, config: Config, facts: Facts) -> Refusals:
    """Networks that answer another question, or of another architecture."""

    def differ(flag: str, before: Any, now: Any) -> tuple[bool, str]:
        told = f"{flag} {before}, and this run is to be with {flag} {now}"
        return before != now, f"--init-from {source.run} was trained with {told}; begin it from a run of its own kind."

    def kinds(of: Callable[[Config], Any]) -> tuple[Any, Any]:
        return of(source.config), of(config)

    generators = [isinstance(one.objective, Generator) for one in (source.config, config)]  # a flow map is a denoiser
    noise_blind = [kind == "residual" for kind in kinds(lambda one: one.preconditioning.kind)]
    points = ["points" if len(one.event_shape) == 1 else "images" for one in (source.facts, facts)]
    return [
        (
            generators[0] != generators[1],
            differ("--objective", *kinds(lambda one: spelt_at("objective", one.objective)))[1],
        ),
        differ("--conservative", *kinds(lambda one: one.conservative)),
        differ("--learned-variance", *kinds(lambda one: one.learned_variance)),
        (
            noise_blind[0] != noise_blind[1],
            differ("--preconditioning.kind", *kinds(lambda one: one.preconditioning.kind))[1],
        ),
        differ("--network", *kinds(lambda one: spelt_at("network", one.network))),
        (points[0] != points[1], differ("data of", *points)[1]),
    ]


def following(config: Config, before: Config, was: Facts, facts: Facts) -> Config:
    """`config`, made from the configuration `before` on data `was`, with its network fitted to the size of `facts`.

    What a person has given otherwise stays.
    """
    own, network = before.network, config.network
    if type(own) is not type(network):
        return config
    fitting = own.resized(was.event_shape, facts.event_shape)
    changed = {
        name: getattr(fitting, name)
        for name in _fields(own)
        if getattr(network, name) == getattr(own, name) != getattr(fitting, name)
    }
    return dataclasses.replace(config, network=dataclasses.replace(network, **changed))  # pyright: ignore


def recorded(checkpoint: Path) -> Origin | None:
    """What a checkpoint notes of the run that its own began from; None where it began by itself."""
    try:
        said = json.loads((checkpoint / "checkpoint.json").read_bytes()).get(KEY)
        return None if said is None else Origin.from_json(said)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint / 'checkpoint.json'} is damaged ({reason(error)}); restore it.") from None


def require_same_source(init: InitFrom | None, outdir: Path) -> None:
    """Raise UsageError where the run in `outdir` is to begin from itself, or has begun from something else.

    A run goes on without being told again, and the source is not looked at.
    """
    if init is None:
        return
    place, checkpoints = init.place.resolve(), find_checkpoints(outdir / "checkpoints")
    if outdir.resolve() in (place, _run_of(place)):
        raise UsageError(f"--init-from {init.place} is the run of --outdir itself; give another --outdir.")
    for checkpoint in reversed(checkpoints):
        if not checkpoint.sound:
            continue
        origin = recorded(checkpoint.path)
        if origin is None:
            own = "began from parameters of its own"
        elif str(place) not in (origin.run, origin.checkpoint) or init.parameters != origin.parameters:
            own = f"began from {origin.checkpoint} ({origin.parameters})"
        else:
            return
        raise UsageError(
            f"{outdir} holds a run that {own}, and this command says --init-from {init.place} ({init.parameters}); "
            "leave --init-from out to go on with it, or give another --outdir."
        )


def require_source_again(init: InitFrom | None, directory: Path) -> None:
    """Raise UsageError where a run that began from another is trained anew, and nothing says from what."""
    if init is None:
        for path in sorted(directory.iterdir(), reverse=True):
            try:
                origin = recorded(path)
            except CheckpointError:
                continue
            if origin is not None:
                raise UsageError(f"this run began from {origin.run}; add --init-from {origin.run} to train it anew.")


def _origin(source: Source, told: Carried) -> Origin:
    place = (str(source.run), str(source.path), source.step, source.digest, source.parameters)
    return Origin(*place, told.carried, told.new, told.known_classes, told.new_classes, source.imported)


def _run_of(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _classes(config: Config, facts: Facts) -> tuple[str, ...]:
    """The names of the classes that a network knows; numbers where the data have no names."""
    if not config.conditional:
        return ()
    return facts.class_names or tuple(str(number) for number in range(facts.num_classes))


def _fields(network: NetworkConfig) -> list[str]:
    return [field.name for field in dataclasses.fields(network)]  # pyright: ignore[reportArgumentType]
