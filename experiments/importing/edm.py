"""Networks of EDM's authors, and of others who published in their form, from a file of safetensors.

The file holds the arrays under the authors' names, `model.enc.16x16_block0.conv0.weight`, and in its metadata, under
`config`, the arguments with which the network was made, as JSON; docs/import.md has the lines that write it.

Source: Karras et al. 2022, arXiv:2206.00364; Xu et al. 2023, arXiv:2302.04265, for PFGM++.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from diffusion.networks import DhariwalUNetConfig, Network, SongUNetConfig
from diffusion.noises import Gaussian, StudentT
from diffusion.prediction import Preconditioning
from diffusion.published import TIMES, cosine_levels
from diffusion.pytree import short_repr
from diffusion.schedules import EDM, VP
from diffusion.score_matching.weightings import EDMWeighting, SNRWeighting
from experiments.config.nodes import SamplingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.data.registry import NO_DATA
from experiments.errors import CheckpointError, reason
from experiments.importing.arrays import Wanted, check_arrays, read_params, wanted_arrays
from experiments.importing.plan import Options, Plan, refuse_unknown
from experiments.importing.safetensors import SafeTensors, once, open_safetensors, shown
from experiments.training.data import Facts
from experiments.training.state import Params

REMEDY = "docs/import.md has the lines that write it"
_SHARED = {
    "model_channels": "channels",
    "channel_mult": "multipliers",
    "channel_mult_emb": "embedding_multiplier",
    "num_blocks": "blocks",
    "attn_resolutions": "attention_resolutions",
    "dropout": "dropout",
    "augment_dim": "augment_numbers",
}
_SONG = {
    "embedding_type": "embedding",
    "channel_mult_noise": "noise_multiplier",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
    "resample_filter": "resample_filter",
}
MODELS: dict[str, tuple[type, dict[str, str]]] = {
    "SongUNet": (SongUNetConfig, {**_SHARED, **_SONG}),
    "DhariwalUNet": (DhariwalUNetConfig, _SHARED),
}
"""The authors' class, ours, and our names of the arguments of theirs."""
_OF_EDM = ("sigma_data", "sigma_min", "sigma_max", "pfgmpp", "D")
_PLAIN = ("precond", "model_type", "img_resolution", "img_channels", "label_dim", "label_dropout", "use_fp16")
_LARGEST = 2**16
"""The numbers of an architecture are below it: a network of more is none that anybody has published."""
_MOST_BLOCKS = 64
"""Blocks of a level beyond which it is none either."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A preconditioning of the authors."""

    kind: str
    """Its name here."""
    model: str
    """The network that it has unless another is named."""
    constants: Mapping[str, float]
    """The arguments that are constants here: another value is refused."""
    low: Callable[[], float] = lambda: 0.0
    """The smallest noise level that it knows."""
    high: Callable[[], float] = lambda: math.inf


def _vp_level(time: float) -> float:
    return float(np.sqrt(np.expm1(np.float64(VP.beta_min * time + (VP.beta_max - VP.beta_min) * time**2 / 2))))


PRECONDS = {
    "EDMPrecond": Form("edm", "DhariwalUNet", {}),
    "VPPrecond": Form(
        "vp",
        "SongUNet",
        {"beta_d": VP.beta_max - VP.beta_min, "beta_min": VP.beta_min, "M": TIMES, "epsilon_t": 1e-5},
        lambda: _vp_level(1e-5),
        lambda: _vp_level(1.0),
    ),
    "VEPrecond": Form("ve", "SongUNet", {"sigma_min": 0.02, "sigma_max": 100}, lambda: 0.02, lambda: 100.0),
    "iDDPMPrecond": Form(
        "iddpm",
        "DhariwalUNet",
        {"C_1": 0.001, "C_2": 0.008, "M": TIMES},
        lambda: float(cosine_levels()[1]),
        lambda: float(cosine_levels()[-1]),
    ),
}
"""The preconditionings of Karras et al. 2022, table 1, by the authors' names."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A network of the authors, and what its file holds."""

    form: Form
    network: Network
    wanted: tuple[Wanted, ...]
    """The arrays that are its parameters."""
    constants: Mapping[str, np.ndarray]
    """Those that are not, and their values."""

    __repr__ = short_repr

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array of the file."""
        return {one.name: one.shape for one in self.wanted} | {name: f.shape for name, f in self.constants.items()}


def plan(where: Path, options: Options) -> Plan:
    """What importing the file at `where` would do.

    Raises CheckpointError for a file that is none, whose configuration is not known here or whose arrays are not those
    of its configuration: by name, shape and type, before any is read.
    """
    file = open_safetensors(where)
    told = configuration(file)
    found = layout(where, told)
    df = options.df if options.df is not None else _degrees(where, told)
    config = _config(where, told, found, df)
    if found.form.kind == "iddpm" and "u" in file.entries:  # the levels of the chain, which its authors keep with it
        found = dataclasses.replace(found, constants={**found.constants, "u": cosine_levels()[::-1]})
    check_arrays([file], found.shapes())
    facts = Facts(found.network.event_shape, found.network.num_classes)

    def read() -> Params:
        for name, value in found.constants.items():  # u is summed in float32 there
            if not np.allclose(file.read(name), value, rtol=0.02 if name == "u" else 1e-5, atol=1e-7):
                what = "the levels of its chain" if name == "u" else "the resample_filter of its configuration"
                raise CheckpointError(f"{where}: {name} does not hold {what}.")
        return read_params([file], found.wanted)

    return Plan("edm", where, (where,), config, facts, found.wanted, read, tuple(_notes(found.form, df, told)))


def layout(where: Path, told: Mapping[str, Any]) -> Layout:
    """The network of the authors' configuration `told`. Raises CheckpointError for what is not known here."""
    form, (config_type, names) = _form(where, told), _model(where, told)
    known = {*_PLAIN, *names, *form.constants, *(_OF_EDM if form.kind == "edm" else ())}
    refuse_unknown(where, "its configuration", told, known)
    size, channels, classes = (_count(where, told, name, least) for name, least in _SIZES)
    config = _attending(_network(where, told, config_type, names), size)
    try:
        network = Network(config, (size, size, channels), classes)
        wanted = wanted_arrays(network.init, lambda path: ".".join(("model", *path)))
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{where}: its configuration makes no network: {reason(error)}.") from None
    last = _last_places(config, network)
    wanted = tuple(_halved(one) if form.kind == "iddpm" and one.path[:-1] in last else one for one in wanted)
    return Layout(form, network, wanted, filters(config, network))


def _attending(config: Any, size: int) -> Any:
    """`config` without attention at levels that images of this size do not have, which the authors let pass."""
    sides = [size >> level for level in range(len(config.multipliers))]
    attended = tuple(side for side in config.attention_resolutions if side in sides)
    return dataclasses.replace(config, attention_resolutions=attended)


_SIZES = (("img_resolution", 1), ("img_channels", 1), ("label_dim", 0))


def configuration(file: SafeTensors) -> dict[str, Any]:
    """The arguments with which the network was made."""
    if "config" not in file.metadata:
        raise CheckpointError(f"{file.path} has no `config` in its metadata, which says what network it is; {REMEDY}.")
    try:
        told = json.loads(file.metadata["config"], object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: its `config` is not valid JSON ({reason(error)}); {REMEDY}.") from None
    if not isinstance(told, dict):
        raise CheckpointError(f"{file.path}: its `config` is no table of arguments; {REMEDY}.")
    return told


def _form(where: Path, told: Mapping[str, Any]) -> Form:
    name = told.get("precond")
    if not isinstance(name, str) or name not in PRECONDS:
        raise CheckpointError(f"{where}: its precond is {shown(name)}; known are {', '.join(PRECONDS)}.")
    form = PRECONDS[name]
    for argument, value in form.constants.items():
        given = told.get(argument, value)
        if not _is_number(given) or not math.isclose(given, value, rel_tol=1e-6):
            raise CheckpointError(
                f"{where}: its {argument} is {shown(given)}; {name} is known here with {value:g} alone."
            )
    return form


def _model(where: Path, told: Mapping[str, Any]) -> tuple[type, dict[str, str]]:
    name = told.get("model_type", PRECONDS[told["precond"]].model)
    if not isinstance(name, str) or name not in MODELS:
        raise CheckpointError(f"{where}: its model_type is {shown(name)}; known are {', '.join(MODELS)}.")
    return MODELS[name]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(where: Path, told: Mapping[str, Any], name: str, least: int) -> int:
    value = told.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**20:
        raise CheckpointError(f"{where}: its {name} is {shown(value)}; it is a whole number of {least} or more.")
    return value


def _network(where: Path, told: Mapping[str, Any], cls: type, names: Mapping[str, str]) -> Any:
    """The architecture, in which an argument that is not told has the authors' default, which is ours."""
    given = {}
    for theirs, ours in names.items():
        if theirs not in told:
            continue
        value, default = _tupled(told[theirs]), getattr(cls, ours)
        kind = (int, float) if isinstance(default, float) else type(default)
        most = _MOST_BLOCKS if ours == "blocks" else _LARGEST
        items = value if isinstance(value, tuple) else (value,)
        whole = isinstance(default, (str, float)) or all(type(item) is int and item < most for item in items)
        if not isinstance(value, kind) or isinstance(value, bool) or not whole or len(items) > _MOST_BLOCKS:
            raise CheckpointError(f"{where}: its {theirs} is {shown(told[theirs])}; give one such as {default!r}.")
        given[ours] = float(value) if isinstance(default, float) else value  # pyright: ignore[reportArgumentType]
    try:
        return cls(**given)
    except ValueError as error:
        raise CheckpointError(f"{where}: its configuration makes no network: {error}") from None


def _tupled(value: Any) -> Any:
    """A list of JSON as a tuple, all else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _degrees(where: Path, told: Mapping[str, Any]) -> float | None:
    """PFGM++'s D, if the file says that it is one's."""
    said = told.get("pfgmpp", False)
    if not isinstance(said, bool):
        raise CheckpointError(f"{where}: its pfgmpp is {shown(said)}; it is true or false.")
    if not said:
        return None
    value = told.get("D")
    if not _is_number(value) or not value > 0:
        raise CheckpointError(f"{where}: it is PFGM++'s, and its D is {shown(value)}; give the degrees by --df.")
    return float(value)


def _config(where: Path, told: Mapping[str, Any], found: Layout, df: float | None) -> Config:
    """The run: in EDM's variables, where time is the noise level and every solver can be used."""
    form, network = found.form, found.network
    deviation, dropped = told.get("sigma_data", 0.5), told.get("label_dropout", 0.0)
    if not _is_number(deviation) or not deviation > 0:
        raise CheckpointError(f"{where}: its sigma_data is {shown(deviation)}; it is a positive number.")
    if not _is_number(dropped) or not 0 <= dropped <= 1:
        raise CheckpointError(f"{where}: its label_dropout is {shown(dropped)}; it is a fraction.")
    if df is not None and form.kind != "edm":
        raise CheckpointError(f"{where} is no network of PFGM++, whose preconditioning is EDMPrecond; leave --df out.")
    kind, (low, high) = "pfgmpp" if df is not None else form.kind, _levels_of(where, told, form)
    size, _, channels = network.event_shape
    data = DataConfig(source=NO_DATA, size=size, channels=channels)
    return Config(
        data=data,
        schedule=EDM(sigma_min=max(EDM.sigma_min, low), sigma_max=min(EDM.sigma_max, high)),
        noise=Gaussian() if df is None else StudentT(df),
        network=network.config,  # pyright: ignore[reportArgumentType]
        preconditioning=Preconditioning(kind, float(deviation)),  # pyright: ignore[reportArgumentType]
        weighting=EDMWeighting(float(deviation)) if kind in ("edm", "pfgmpp") else SNRWeighting(),
        conditional=network.num_classes > 0,
        label_dropout=float(dropped),
        sampling=SamplingConfig(sampler="heun", steps=18),
    )


def _levels_of(where: Path, told: Mapping[str, Any], form: Form) -> tuple[float, float]:
    """The smallest and the largest noise level that the network knows."""
    if form.kind != "edm":
        return form.low(), form.high()
    low, high = told.get("sigma_min", form.low()), told.get("sigma_max", form.high())
    for name, value in (("sigma_min", low), ("sigma_max", high)):
        if not (_is_number(value) or value == math.inf) or not value >= 0:
            raise CheckpointError(f"{where}: its {name} is {shown(value)}; it is a noise level.")
    if not max(EDM.sigma_min, low) < min(EDM.sigma_max, high):
        raise CheckpointError(
            f"{where}: its noise levels are {low:g} to {high:g}, and those of a run are within {EDM.sigma_min:g} to "
            f"{EDM.sigma_max:g}."
        )
    return low, high


def _last_places(config: Any, network: Network) -> set[tuple[str, ...]]:
    """The places of the convolutions that answer."""
    if isinstance(config, DhariwalUNetConfig):
        return {("out_conv",)}
    return {("dec", f"{name}_aux_conv") for name in _levels(config, network)}


def _halved(one: Wanted) -> Wanted:
    """An array of the last convolution, of which the second half, the variances, is left out."""
    return dataclasses.replace(one, shape=(2 * one.shape[0], *one.shape[1:]), rows=one.shape[0])


def _levels(config: Any, network: Network) -> list[str]:
    height, width, _ = network.event_shape
    return [f"{height >> i}x{width >> i}" for i in range(len(config.multipliers))]


def filters(config: Any, network: Network) -> dict[str, np.ndarray]:
    """The filters that the file holds beside the parameters, f fᵀ/(Σf)², each where a size is halved or doubled."""
    levels, song = _levels(config, network), isinstance(config, SongUNetConfig)
    places = [f"enc.{name}_down.{part}" for name in levels[1:] for part in ("conv0", "skip")]
    places += [f"dec.{name}_up.{part}" for name in levels[:-1] for part in ("conv0", "skip")]
    if song and config.encoder != "standard":
        what = "down" if config.encoder == "skip" else "residual"
        places += [f"enc.{name}_aux_{what}" for name in levels[1:]]
    if song and config.decoder == "skip":
        places += [f"dec.{name}_aux_up" for name in levels[:-1]]
    taps = np.asarray(config.resample_filter if song else (1, 1), np.float32)
    square = (np.outer(taps, taps) / taps.sum() ** 2)[None, None]
    return {f"model.{place}.resample_filter": square for place in places}


def _notes(form: Form, df: float | None, told: Mapping[str, Any]) -> list[str]:
    notes = []
    if form.kind == "iddpm":
        notes.append("the variances that it has learned are left out; they are for ancestral sampling on its own chain")
    if df is not None:
        notes.append(f"Student-t noise of {df:g} degrees of freedom, PFGM++'s D")
    if told.get("use_fp16"):
        notes.append("computed in float32; --network.compute-dtype bfloat16 is for training from it")
    return notes
