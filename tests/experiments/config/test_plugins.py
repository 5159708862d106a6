"""Classes from outside the package in a run: chosen by name, trained, sampled, and found again by another process."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from diffusion import Schedule
from diffusion.pytree import pytree
from experiments import presets
from experiments.config import Config, choices, plugins
from experiments.config.file import load_config, to_json
from experiments.data.registry import SOURCES
from experiments.errors import CheckpointError, UsageError
from samplers.registry import SAMPLERS

ONE_OF_EACH = '''
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffusion import Gaussian, Noise, Preconditioning, Schedule, velocity
from diffusion.networks import NetworkConfig
from diffusion.pytree import pytree
from diffusion.score_matching.times import TimeDistribution
from diffusion.score_matching.weightings import Weighting
from scorefield import register
from experiments.config import Config, DataConfig, SamplingConfig, TrainingConfig
from experiments.data import Source
from samplers import Sampler


@register.schedule("cone")
@pytree
class Cone(Schedule):
    """Noise that grows evenly, and data that stay."""

    reach: float = 2.0
    """The largest noise level."""

    def alpha(self, t):
        return jnp.ones_like(jnp.asarray(t, float))

    def sigma(self, t):
        return self.reach * jnp.asarray(t, float)

    def time_from_log_snr(self, log_snr):
        return jnp.exp(-0.5 * jnp.asarray(log_snr)) / self.reach


@register.noise("loud")
@pytree
class Loud(Noise):
    """Gaussian noise by another name."""

    def sample(self, key, shape, dtype=None):
        return Gaussian().sample(key, shape, dtype)

    def log_prob(self, z):
        return Gaussian().log_prob(z)


@register.weighting("flat")
@pytree
class Flat(Weighting):
    def weight(self, process, t):
        return jnp.ones_like(process.alpha(t))


@register.times("late")
@pytree
class Late(TimeDistribution):
    def quantile(self, process, u):
        return process.t_min + (process.t_max - process.t_min) * jnp.sqrt(u)


class Line(nnx.Module):
    def __init__(self, config, event_shape, num_classes, outputs, *, rngs):
        self.map = nnx.Linear(event_shape[-1], outputs * event_shape[-1], rngs=rngs)

    def __call__(self, x, c_noise, labels, keys):
        return self.map(x)


@register.network("line")
@dataclass(frozen=True, kw_only=True)
class LineConfig(NetworkConfig):
    """One linear map."""

    takes_any_shape: ClassVar[bool] = True
    width: int = 3
    """Nothing here."""

    def module(self):
        return Line


@register.sampler("stride")
@pytree
class Stride(Sampler):
    """Euler's steps."""

    order: ClassVar[int] = 1

    def step(self, keys, x, carry, t, s, process, denoise):
        return x + (s - t) * velocity(process, denoise)(x, t), carry


@register.data_source("ring:COUNT", "points on a circle")
def read(where, config):
    angle = np.linspace(0, 2 * np.pi, int(where))
    return Source(images=np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32), name=f"ring:{where}")


@register.preset("ring-line")
def ring_line():
    """A circle and a line, in no time."""
    return Config(
        data=DataConfig(source="ring:64"),
        schedule=Cone(),
        network=LineConfig(),
        preconditioning=Preconditioning("x0"),
        weighting=Flat(),
        times=Late(),
        training=TrainingConfig(steps=2, batch_size=8, log_every=1, validate_every=0, checkpoint_every=2),
        sampling=SamplingConfig(sampler="stride", grid="uniform-time", steps=3),
    )
'''


class Outside:
    """Modules that Python finds, and the tables in which they register."""

    def __init__(self, folder):
        self.folder, self.names = folder, []
        self.tables = [choices.TYPES, choices._names, SOURCES, SAMPLERS, presets.PLUGINS, plugins._owners]
        self.tables += choices.NODES.values()
        self.before = [dict(table) for table in self.tables]

    def write(self, name, text):
        (self.folder / f"{name}.py").write_text(text)
        self.names.append(name)

    def forget(self):
        """As in a new process: nothing has been imported, registered or trusted."""
        for table, kept in zip(self.tables, self.before, strict=True):
            table.clear()
            table.update(kept)
        plugins._named.clear()
        for name in self.names:
            sys.modules.pop(name, None)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield (modules := Outside(tmp_path))
    modules.forget()


def samples(folder):
    return np.load(folder / "samples.npz")["points"]


def test_one_of_each_kind_is_trained_sampled_and_found_again_by_another_process(run_command, outside, tmp_path):
    outside.write("round_things", ONE_OF_EACH)
    run, plugin = tmp_path / "run", ("--plugin", "round_things")
    flags = ("--noise", "loud", "--schedule", "cone", "--schedule.reach", "3", "--outdir", run, "--quiet")
    outcome = run_command("train", *plugin, "--preset", "ring-line", *flags)
    assert outcome.status == 0, outcome.err
    written = json.loads((run / "config.json").read_text())
    assert written["plugins"] == ["round_things"]
    assert written["schedule"] == {"type": "round_things:Cone", "reach": 3.0}
    told = ("sample", "--run", run, "--seeds", "0-3", "--format", "npz", "--outdir")
    assert run_command(*told, tmp_path / "here", *plugin).status == 0

    outside.forget()
    outcome = run_command(*told, tmp_path / "nowhere")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "needs the plugin round_things; add --plugin round_things if you trust it." in outcome.err
    assert "round_things" not in sys.modules

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "experiments.cli", *map(str, told), str(tmp_path / "there"), *plugin]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    np.testing.assert_allclose(samples(tmp_path / "there"), samples(tmp_path / "here"), rtol=1e-5)


def test_the_catalogues_list_what_a_plugin_brings(run_command, outside):
    outside.write("round_things", ONE_OF_EACH)
    catalogue = run_command("samplers", "--plugin=round_things", "--json").value
    assert {"name": "stride", "source": "the plugin round_things"}.items() <= catalogue[-1].items()
    assert "A circle and a line, in no time." in run_command("presets").out
    shown = run_command("train", "--help", "--network", "line", "--preset", "ring-line").out
    assert "rectified-flow,chain,cone}" in shown
    assert "ring:COUNT}" in shown
    assert "--network.width INT" in shown


@pytest.mark.parametrize(
    "said",
    [
        {"type": "Config", "plugins": ["trap"]},
        {"type": "Config", "schedule": {"type": "trap:Schedule"}},
        {"type": "trap:Config"},
    ],
)
def test_a_file_is_never_reason_enough_to_import(outside, tmp_path, said):
    outside.write("trap", "raise SystemExit('imported')")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(said))
    with pytest.raises(UsageError, match="needs the plugin trap; add --plugin trap if you trust it"):
        load_config(path)
    path.write_text(json.dumps({"type": "Config", "plugins": "trap"}))
    with pytest.raises(CheckpointError, match="which is not a list of modules"):
        load_config(path)


@pytest.mark.parametrize("trust", ["command line", "environment", "entry point"])
def test_a_module_is_imported_on_the_word_of_the_person(outside, tmp_path, monkeypatch, trust):
    outside.write("mine", "from scorefield import register\n@register.preset('mine')\ndef make(): ...\n")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"type": "Config", "plugins": ["mine"]}))
    if trust == "command line":
        plugins.load(["mine"])
    if trust == "environment":
        monkeypatch.setenv("SCOREFIELD_PLUGINS", "mine")
    if trust == "entry point":
        point = importlib.metadata.EntryPoint("any", "mine", "scorefield.plugins")
        monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])
    assert load_config(path) == Config()
    assert "mine" in presets.names()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "the plugin broken does not exist; install it, or put its folder on PYTHONPATH."),
        ("import no_such_library", "ModuleNotFoundError at .*broken.py:1: No module named 'no_such_library'"),
        ("\n1 / 0", "ZeroDivisionError at .*broken.py:2: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
        ("register.schedule('vp')(Good)", "broken registers the schedule vp, and there is one of that name; choose"),
        ("register.schedule('My_Name')(Good)", "'My_Name'; use lower-case letters, digits and hyphens."),
        ("register.noise('good')(Good)", "the noise Good is not a subclass of diffusion.noises.Noise; make it one."),
        ("register.schedule('bare')(Bare)", "Bare is not a dataclass; write @diffusion.pytree.pytree"),
        ("register.schedule('leaf')(Leaf)", "Leaf is a leaf to JAX; make it by @diffusion.pytree.pytree"),
        ("register.schedule('open')(Open)", "Open has no default for scale; give one."),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_in_a_sentence(run_command, outside, text, sentence):
    if text is not None:
        outside.write("broken", f"{CLASSES if 'register' in text else ''}{text}\n")
    outcome = run_command("presets", "--plugin", "broken")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert re.search(sentence, outcome.err)


def test_the_name_of_a_file_is_not_taken_for_a_modules(run_command, outside):
    outside.write("fine", "raise AssertionError('imported')\n")
    outcome = run_command("presets", "--plugin", "fine.py")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "the plugin 'fine.py' is not the name of a module; give it as import does" in outcome.err


CLASSES = """
from dataclasses import dataclass
from diffusion import Schedule
from diffusion.pytree import pytree
from scorefield import register
class Bare(Schedule): pass
@dataclass(frozen=True)
class Leaf(Schedule): pass
@pytree
class Good(Schedule): pass
@pytree
class Open(Schedule):
    scale: float
"""


def test_a_module_may_register_anew_as_a_notebook_does(outside):
    outside.write("mine", CLASSES + "register.schedule('good')(Good)\nregister.schedule('good')(Good)\n")
    plugins.load(["mine"])
    assert choices.NODES["schedule"]["good"].__name__ == "Good"


def test_an_installed_plugin_that_fails_stops_no_other_command(run_command, outside, monkeypatch):
    outside.write("broken", "1 / 0")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [importlib.metadata.EntryPoint("any", "broken", group)])
    outcome = run_command("presets")
    assert outcome.status == 0
    assert "the plugin broken cannot be imported" in outcome.err


def test_a_class_without_a_name_is_refused_when_it_is_written():
    @pytree
    class Nameless(Schedule):
        pass

    with pytest.raises(UsageError, match="Nameless is not a type that a configuration knows; register it"):
        to_json(Config(schedule=Nameless()))
