"""Whether a command continues the run that it finds in its folder, and from where."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import streams
from experiments.config.file import to_json
from experiments.config.nodes import LAST_SEED
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.errors import CheckpointError, ScorefieldError, UsageError, warn
from experiments.names import flag_of
from experiments.training.checkpoint import checkpoint_path, find_checkpoints, newest_trusted, read, set_aside
from experiments.training.data import Facts, RunData, require_same_data
from experiments.training.differences import differences, flat
from experiments.training.distributed import from_process_0
from experiments.training.imported import require_trained_here
from experiments.training.kept import run_config
from experiments.training.model import AnyNetwork, network_of
from experiments.training.settle import settled_as
from experiments.training.state import TrainState, from_tree, initial_state, seed_key, to_tree
from experiments.training.warm_start import InitFrom, Origin, begin, read_source, recorded, require_source_again


def with_own_rules(config: Config, outdir: Path, told: bool = False) -> Config:
    """`config` with the rules by which the run in `outdir`, if it has been trained, reads its data, in its form, and
    with its numbers in the place of every "auto".

    What is wrong with the run is left for `check_config` to say. Raises UsageError for other rules that a person asks
    for: any that are not those of new runs, and where the person is known to have `told` them, these too.
    """
    if not find_checkpoints(outdir / "checkpoints"):
        _require_new_seed(config)
        return config
    try:
        kept = run_config(outdir, free=False)
    except ScorefieldError:
        return config
    own = kept.data
    rules, asked = own.rules, config.data.rules
    if rules != asked and (told or asked != DataConfig.rules):
        raise UsageError(
            f"{outdir} holds a run with --data.rules {rules}, and this command says {asked}; leave it out, or give "
            "another --outdir."
        )
    loading = "lazy" if own.loading == "lazy" else "memory"
    loading = loading if config.data.loading == "auto" else config.data.loading
    return settled_as(replace(config, data=replace(config.data, rules=rules, loading=loading)), kept)


def with_form(config: Config, data: RunData) -> Config:
    """`config` of a run whose `data` were opened, with their form, in which it goes on however much memory there is."""
    return replace(config, data=replace(config.data, loading="lazy" if data.lazy else "memory"))


def check_config(config: Config, outdir: Path, has_checkpoints: bool, restart: bool = False) -> None:
    """Check that a run in `outdir`, if there is one, is a run of `config`.

    Where config.json is gone or damaged, the copy in the newest checkpoint that can be trusted takes its place.
    Where there is no such copy, nothing can be gone on with, and `restart` says that this is known.
    Raises UsageError naming the fields that differ and must not, or the seed of a new run, CheckpointError when there
    is nothing to compare with.
    """
    if not has_checkpoints:
        _require_new_seed(config)
        if (outdir / "config.json").exists():  # nothing was trained by the configuration, and it is written anew
            _set_samples_aside(outdir / "samples")
        return
    require_trained_here(outdir)
    try:
        before = run_config(outdir, free=False)
    except CheckpointError:
        if restart:
            return
        raise CheckpointError(_nothing_sound(f"neither {outdir / 'config.json'} nor a checkpoint beside it")) from None
    done = max((checkpoint.step for checkpoint in find_checkpoints(outdir / "checkpoints")), default=0)
    differing = differences(before, config, done)
    if differing:
        name, old, new = differing[0]
        others = (
            f" (and {', '.join(flag_of(name) for name, _, _ in differing[1:4])} differ too)" if differing[1:] else ""
        )
        another = "begin another --outdir with --init-from" if name == "training.steps" else "give another --outdir"
        raise UsageError(
            f"{outdir} holds a run with --{flag_of(name)} {old}, and this command says {new}{others}; "
            f"{_why_not(name, config)}repeat the run's own values, or {another}."
        )


def _why_not(name: str, config: Config) -> str:
    """The reason where it is not plain to see."""
    if name != "training.steps":
        return ""
    rule = config.optimizer
    how = f"cooldown-steps {rule.cooldown_steps}" if rule.cooldown_steps else f"decay {rule.decay}"
    return f"its learning rate falls to its end (--optimizer.{how}), so that no step follows; "


def _require_new_seed(config: Config) -> None:
    if config.training.seed > LAST_SEED:
        raise UsageError(f"--training.seed is {config.training.seed}; give 0 to {LAST_SEED}.")


def _set_samples_aside(folder: Path) -> None:
    """Rename the pictures of a run that left no checkpoint, so that they are not taken for those of the next."""
    if folder.is_dir():
        number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}.{n}").exists())
        folder.rename(folder.with_name(f"{folder.name}.{number}"))


class Start(NamedTuple):
    """Where a training starts."""

    network: AnyNetwork
    state: TrainState
    """Numpy arrays, which take no device."""
    origin: Origin | None
    """The run that it began from, if there is one."""
    begins: bool
    """Whether it begins now, and does not go on."""


def starting_point(
    config: Config,
    optimizer: optax.GradientTransformation,
    directory: Path,
    facts: Facts,
    restart: bool = False,
    init: InitFrom | None = None,
) -> Start:
    """The newest state that can be trusted, or the initial one, with the parameters of `init` where that is given.

    Process 0 chooses for all. A line on standard error tells of each checkpoint that is passed over; it is set aside.
    Where none can be trusted, the training starts anew if `restart` says so.
    Raises CheckpointError for a state that does not fit, and where no checkpoint can be trusted; DataError when the run
    was trained on other data.
    """
    network = network_of(config, facts)
    key = seed_key(config.training.seed, streams.INITIAL)
    state_of = partial(initial_state, optimizer=optimizer, config=config)
    step = -1
    if jax.process_index() == 0:
        found = newest_trusted(directory, warn)
        if found is not None:
            require_same_data(found.facts(), facts)
            step = found.step
        elif find_checkpoints(directory):
            _start_anew(directory, restart, init)
        set_aside(directory, step)
    step = int(from_process_0(np.asarray(step)))
    if step < 0:
        with jax.default_device(_host() if config.parallel == "fsdp" else None):  # where one device may be too small
            params, origin = network.init(key), None
            if init is not None:
                params, origin = begin(read_source(init), config, facts, params)
            state = jax.jit(state_of)(params)
            tree = to_tree(state)
        return Start(network, from_tree(tree if init is None else from_process_0(tree), state), origin, True)
    # Of a run that goes on nothing is drawn: shapes and types alone say what its checkpoint must hold.
    like, path = jax.eval_shape(lambda key: state_of(network.init(key)), key), checkpoint_path(directory, step)
    return Start(network, from_tree(from_process_0(read(path)), like), recorded(path), False)


def _host() -> Any:
    """The CPU as a device; None where JAX was started without."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


LOCAL = frozenset(("data.source", "data.memory_gib", "training.tensorboard", "tracking.trackers", "tracking.project"))
"""What each process of a run may have for itself."""


def command_of(config: Config, facts: Facts) -> dict[str, Any]:
    """What all processes of a run have in common: the configuration, the data and the versions, by their names."""
    said = {f"--{flag_of(name)}": value for name, value in flat(to_json(config)).items() if name not in LOCAL}
    data = {
        "images of shape": facts.event_shape,
        "classes": facts.num_classes,
        "data of fingerprint": facts.fingerprint,
    }
    return {**said, **data, "scorefield": version("scorefield"), "jax": jax.__version__, "jaxlib": version("jaxlib")}


def _start_anew(directory: Path, restart: bool, init: InitFrom | None) -> None:
    """Say that a training starts from step 0, or refuse to: its checkpoints are there, and none can be trusted."""
    if not restart:
        raise CheckpointError(_nothing_sound(f"no checkpoint in {directory}"))
    require_source_again(init, directory)
    _set_samples_aside(directory.parent / "samples")
    warn(f"training anew from step 0; the damaged checkpoints stay in {directory}, as NAME.untrusted.")


def _nothing_sound(what: str) -> str:
    return f"{what} can be trusted; restore one, or add --restart to train anew from step 0."
