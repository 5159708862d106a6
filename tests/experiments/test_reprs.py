"""What a notebook shows of an object: a line or two, however many numbers are in it."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import diffusion
import experiments
import samplers
import scorefield
from diffusion import EDM, VP, Betas, Process, StudentT
from diffusion.oracles import Atoms, GaussianMixture
from experiments.config.nodes import TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.data.source import Source
from experiments.evaluation.anomalies import Scored
from experiments.pictures.request import Request
from experiments.runs.model import Model
from experiments.sampling.drawing import Drawn, Samples
from experiments.sampling.energy import Part
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import Classes
from experiments.sampling.solver import Solver
from experiments.sampling.throughput import Throughput
from experiments.training.data import Facts
from experiments.verification.registry import identities
from experiments.verification.trained.finding import Finding, Quantity
from experiments.verification.trained.subject import Pictures
from samplers import Heun, Sampled, karras

IMAGES = np.zeros((256, 28, 28, 3), np.uint8)
LABELS = np.zeros(256, np.int32)
PARAMS = {"kernel": np.zeros((300, 300)), "bias": np.zeros(300)}
SOURCE = Source(name="mine", images=IMAGES, labels=LABELS)
MODEL = Model(Config(), Facts((28, 28, 3), 3, ("a", "b", "c")), cast(Any, len), PARAMS)
DRAWN = Drawn(list(range(256)), IMAGES, 35)
SHOWN = {
    "samples": Samples(IMAGES, 35, Throughput(64)),
    "a batch": DRAWN,
    "an energy's batch": Part(DRAWN, np.zeros(3000)),
    "the core's samples": Sampled(cast(Any, IMAGES), cast(Any, IMAGES[None]), None, 35),
    "a request": Request(MODEL, "grid", range(256), {"class": "all", "seeds": "0-255"}, Classes((0, 1), "all")),
    "classes": Classes(tuple(range(1000)), "random", tuple(range(1000))),
    "a solver": Solver("heun", Heun(), karras(Process(), 1000), {"grid": "karras"}),
    "guidance": Guidance(strength=2.0, weak=MODEL),
    "a model": MODEL,
    "data": SOURCE,
    "pictures": Pictures(IMAGES, LABELS),
    "anomalies": Scored(
        Source(name="mine", images=IMAGES, labels=LABELS), LABELS, LABELS.astype(float), LABELS.astype(float)
    ),
    "a finding": Finding(
        "loss", "t", "x" * 500, "c" * 500, "out of line", "m" * 500, rows={"a": (Quantity(1.0),) * 99}
    ),
    "an identity": identities()[0],
    "a process": Process(VP(), StudentT(df=128.0)),
    "a chain": Process(Betas.linear(1000)),
    "a law": GaussianMixture.isotropic(np.zeros((100, 64)), 1.0),
    "atoms": Atoms(cast(Any, np.zeros((500, 64)))),
    **{name: scorefield.preset(name) for name in scorefield.presets()},
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_shown_is_a_line_or_two(what):
    shown = repr(SHOWN[what])
    assert len(shown) < 600, shown
    assert shown.count("\n") < 2, shown


def public_classes():
    """Every public dataclass and named tuple of the packages."""
    found = {}
    for package in (diffusion, samplers, experiments):
        root = Path(cast(str, package.__file__)).parent
        for module in pkgutil.walk_packages([str(root)], package.__name__ + "."):
            text = root.joinpath(*module.name.split(".")[1:]).with_suffix(".py")
            if not text.exists() or not re.search("dataclass|pytree|NamedTuple", text.read_text()):
                continue
            for name in [node.name for node in ast.parse(text.read_text()).body if isinstance(node, ast.ClassDef)]:
                cls = getattr(importlib.import_module(module.name), name)
                if not name.startswith("_") and (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")):
                    found[f"{module.name}.{name}"] = cls
    return found


MANY = re.compile(r"\b(Array|ndarray|Events|Images|Points|Float\w*|Int\d*|UInt\d+)\b")


def test_no_class_shows_its_arrays():
    """One that says it holds arrays has `short_repr`, or a repr of its own, which is left to the list above."""
    seen = 0
    for name, cls in public_classes().items():
        names = getattr(cls, "_fields", None) or [field.name for field in dataclasses.fields(cls) if field.repr]
        hints = {}
        for base in reversed(cls.__mro__):
            hints |= {one: str(hint) for one, hint in inspect.get_annotations(base).items()}
        holds = [one for one in names if MANY.search(hints[one]) and "Callable" not in hints[one]]
        seen += bool(holds)
        own = cls.__repr__.__name__ == "short_repr" or "__repr__" in inspect.getsource(cls)
        assert own or not holds, f"{name} shows its {', '.join(holds)}; give it `__repr__ = short_repr`"
    assert seen > 60


def test_a_configuration_shows_what_is_not_as_by_default():
    config = Config(schedule=EDM(sigma_max=10.0), data=DataConfig(source="npz:x"), training=TrainingConfig(steps=7))
    shown = repr(config)
    assert (
        shown
        == "Config(data=DataConfig(source='npz:x'), schedule=EDM(sigma_max=10.0), training=TrainingConfig(steps=7))"
    )
    names = {one.__name__: one for one in (Config, EDM, DataConfig, TrainingConfig)}
    assert eval(shown, names) == config
    assert repr(Config()) == "Config()"
