"""Samplers that are handed on as one file: how a run's becomes one, and how it draws samples again."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config.file import document
from experiments.config.nodes import SamplingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.data.registry import NO_DATA
from experiments.errors import CheckpointError, UsageError, reason
from experiments.exporting.bundle import ABOUT, AGAIN, WEIGHTS, Bundle, open_bundle, require_new_file, write_bundle
from experiments.exporting.program import PLATFORMS, make_program
from experiments.importing.safetensors import sha256
from experiments.runs.classes import class_names, require_known
from experiments.runs.model import Model
from experiments.runs.provenance import origin, versions
from experiments.sampling.drawing import Drawn, asked_by, in_batches, labels_of, starts
from experiments.sampling.guidance import Guidance, beyond_defaults
from experiments.sampling.labels import Classes, choose_classes
from experiments.sampling.solver import Solver
from experiments.training.data import Facts

_BATCH = 64
"""Samples drawn at a time by a program that takes any number."""


def export_sampler(
    path: Path,
    model: Model,
    solver: Solver,
    guidance: Guidance,
    classes: Classes | None,
    *,
    brownian_tree: bool = False,
    batch: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Write the sampler to `path`, and return what its `sampler.json` says.

    It draws `batch` samples at a time, or any number. With `classes` it is told them, and draws these unless others are
    asked for. Raises UsageError for what does not go together or cannot be exported, and where `path` is there already.
    """
    require_new_file(path)
    model = asked_by(model, solver)
    with_class = classes is not None
    program = make_program(
        model,
        solver,
        guidance,
        with_class=with_class,
        brownian_tree=brownian_tree,
        batch=batch,
        platforms=platforms,
    )
    convention = next(iter(program.exported.values())).calling_convention_version
    calls = solver.sampler.calls(model.process, solver.grid)
    about = {
        "event_shape": list(model.event_shape),
        "batch": batch,
        "platforms": list(platforms),
        "jax": {"version": jax.__version__, "calling_convention": convention},
        "arguments": ["arrays", "seeds uint32 (batch,)", *["classes int32 (batch,)"] * with_class],
        "scaling": _scaling(model),
        "solver": {**solver.provenance, "times": [float(time) for time in solver.grid]},
        "nfe": guidance.calls(calls, paired=solver.sampler.takes_pair),
        "guidance": guidance.strength,
        "asked": beyond_defaults(guidance, guidance.limits(model), brownian_tree=brownian_tree),
        "clipping": _clipping(guidance.limits(model)),
        "classes": None if classes is None else _classes(model, classes),
        "parameters": sum(math.prod(array.shape) for name, array in program.arrays.items() if name.startswith(WEIGHTS)),
        "origin": origin(model),
        "config": document(model.config),
    }
    write_bundle(path, program, about)
    return about


def _clipping(limits: SamplingConfig) -> dict[str, Any]:
    """How the program keeps the network's answers within a range."""
    return {name: getattr(limits, name) for name in ("clip", "clip_range", "percentile")}


def _scaling(model: Model) -> dict[str, Any] | None:
    """How x becomes pixels; None for points, which are what they are."""
    if model.of_points:
        return None
    largest = 2**model.bits - 1
    return {"bits": model.bits, "half": largest / 2, "pixels": f"round({largest / 2:g} (x + 1)), in 0..{largest}"}


def _classes(model: Model, chosen: Classes) -> dict[str, Any]:
    counts = model.facts.class_counts
    return {
        "names": list(class_names(model)),
        "counts": None if counts is None else list(counts),
        "rules": model.config.data.rules,
        "label_dropout": model.config.label_dropout,
        "drawn": {"numbers": list(chosen.numbers), "word": chosen.word, "counts": list(chosen.counts)},
    }


@dataclass(frozen=True, eq=False, repr=False)
class ExportedSampler:
    """A sampler that was read from a file."""

    bundle: Bundle
    model: Model
    """What its samples are and which classes it knows; it has no network."""
    classes: Classes | None
    """The classes that it draws unless told otherwise; None where it is told none."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.bundle.path

    @property
    def about(self) -> Mapping[str, Any]:
        """What its `sampler.json` says."""
        return self.bundle.about

    @property
    def nfe(self) -> int:
        """Network calls for each sample, at most."""
        return int(self.about["nfe"])

    def provenance(self) -> dict[str, Any]:
        """What determines its samples, but for seeds and classes, as JSON values."""
        about = self.about
        solver = {name: value for name, value in about["solver"].items() if name != "times"}
        own = {"sha256": self.digest, "batch": self.bundle.batch, "by": about["origin"].get("version")}
        own |= {"jax": about["jax"]["version"]}
        return {
            **solver,
            **about["origin"],
            **versions(),
            "guidance": about["guidance"],
            **about["asked"],
            "exported": own,
        }

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)

    @functools.cached_property
    def _call(self) -> Callable[..., Any]:
        return functools.partial(jax.jit(self.bundle.exported.call), jax.device_put(dict(self.bundle.arrays)))

    def __repr__(self) -> str:
        solver, shape = self.about["solver"], "×".join(map(str, self.model.event_shape))
        return f"ExportedSampler({self.path}: {solver.get('sampler')} in {solver.get('steps')} steps for {shape})"

    def batch_of(self, asked: int | None, count: int) -> int:
        """How many samples are drawn at a time. Raises UsageError for another number than that of the file."""
        own = self.bundle.batch
        if own is None:
            return min(_BATCH if asked is None else asked, count)
        if asked not in (None, own):
            raise UsageError(f"--batch is {asked}, and {self.path} draws {own} at a time; leave it out.")
        return own

    def chosen(self, text: str | None) -> Classes | None:
        """The classes that a text means, as after --class; None for those of the file.

        Raises UsageError where it takes none, or not these.
        """
        if text is None:
            return self.classes
        if self.classes is None:
            raise UsageError(f"--class does not go with {self.path}, which was exported without classes; leave it out.")
        classes = choose_classes(self.model, text)
        if classes is None:
            raise UsageError(f"{self.path} is told a class, and --class {text} is none; export another.")
        return classes

    def draw(
        self,
        seeds: Sequence[int],
        *,
        batch: int,
        label: int | Sequence[int] | np.ndarray | Classes | None = None,
        there: Collection[int] = (),
    ) -> Iterator[Drawn]:
        """Images or points of the seeds, batch by batch, as `experiments.sampling.drawing.draw` gives them.

        Raises UsageError for classes that it does not know, DivergedError for a sample that is not finite, and
        CheckpointError where this jax cannot compile the program.
        """
        label = self.classes if label is None else label
        if label is not None:
            require_known(self.model, np.asarray(label.numbers if isinstance(label, Classes) else label))
        return in_batches(self._ask, self.model, seeds, batch, starts(seeds, batch, there), labels_of(label, seeds))

    def _ask(self, ids: np.ndarray, classes: Any) -> tuple[Any, int]:
        return self.raw(ids, classes), self.nfe

    def raw(self, seeds: np.ndarray, classes: Any = None) -> jax.Array:
        """x (b, *event) in the model's units of as many seeds as the program draws at a time."""
        told = () if classes is None else (jnp.asarray(classes, jnp.int32),)
        try:
            return self._call(jnp.asarray(seeds, jnp.uint32), *told)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise CheckpointError(f"{self.path}: its program cannot be run here ({reason(error)}); {AGAIN}.") from error


def read_sampler(path: Path) -> ExportedSampler:
    """The sampler in the file at `path`. Raises CheckpointError as `open_bundle` does."""
    bundle = open_bundle(path)
    about = bundle.about
    try:
        model = _stand_in(about)
        said = about["classes"]
        classes = None
        if said is not None:
            drawn = said["drawn"]
            classes = Classes(tuple(drawn["numbers"]), drawn["word"], tuple(drawn["counts"]))
            require_known(model, np.asarray(classes.numbers))
        fine = isinstance(about["solver"], dict) and isinstance(about["origin"], dict) and int(about["nfe"]) > 0
        shape = tuple(bundle.exported.out_avals[0].shape[1:])
        if not fine or shape != model.event_shape or bundle.takes_classes != (classes is not None):
            raise ValueError("it is of another program")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, UsageError) as error:
        raise CheckpointError(f"{path}: its {ABOUT} is damaged ({reason(error)}); {AGAIN}.") from None
    return ExportedSampler(bundle, model, classes)


def _stand_in(about: Mapping[str, Any]) -> Model:
    """A model as far as its samples and classes go; the rest of its configuration is nobody's."""
    said, shape = about["classes"], tuple(about["event_shape"])
    bits, names = 8 if about["scaling"] is None else about["scaling"]["bits"], () if said is None else said["names"]
    facts = Facts.from_json(
        {
            "event_shape": list(shape),
            "num_classes": len(names),
            "class_names": list(names),
            "fingerprint": "",
            "class_counts": None if said is None else said["counts"],
        }
    )
    data = DataConfig(source=NO_DATA, bits=bits, **({} if said is None else {"rules": said["rules"]}))
    config = dataclasses.replace(
        Config(), data=data, conditional=said is not None, label_dropout=0.0 if said is None else said["label_dropout"]
    )
    return Model(config, facts, cast(Any, None), {})
