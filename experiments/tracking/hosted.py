"""Weights & Biases and trackio, which share W&B's signatures: one adapter for both.

Both are asked for nothing while they begin: W&B without a key is a reason to go on without it, and so is a network
that is gone. `WANDB_MODE=offline` keeps its files in the run's folder for `wandb sync`; trackio keeps them on this
machine unless it is told otherwise by its own environment variables.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UsageError
from experiments.files import replacing
from experiments.tracking.tracker import Picture

_PATIENCE = 30
"""Seconds for which W&B may try to reach its server when it begins."""


class Hosted:
    """A run there for a run here: `name` is the module, wandb or trackio."""

    def __init__(self, name: str, outdir: Path, project: str, goes_on: bool) -> None:
        """The run of `outdir` goes on there if it `goes_on`, else a new one begins.

        Raises UsageError where the package is not installed.
        """
        try:
            with _aside():
                self._module: Any = importlib.import_module(name)
        except ImportError:
            raise UsageError(f"--track {name} needs {name}; install scorefield[{name}].") from None
        self._name, self._project, self._outdir = name, project, outdir
        self._id = _run_id(outdir / "trackers.json", name, goes_on)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Begin the run. Raises RuntimeError for W&B without a key, which would ask for one and wait."""
        common = {"project": self._project, "config": dict(config), "resume": "allow"}
        with _aside():
            if self._name == "trackio":
                called = f"{self._outdir.name}-{self._id}"
                self._module.init(name=called, embed=False, auto_log_gpu=False, auto_log_cpu=False, **common)
                return
            online = os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun")
            if online and not self._module.login(prompt=False):
                raise RuntimeError("no API key; log in by `wandb login`, or set WANDB_MODE=offline")
            settings = self._module.Settings(console="off", silent=True, init_timeout=_PATIENCE)
            where = {"name": self._outdir.name, "id": self._id, "dir": str(self._outdir)}
            self._module.init(settings=settings, **where, **common)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""
        with _aside():
            self._module.log(dict(values), step=step)

    def log_images(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Pictures of a step; grey ones are told in three channels."""
        made = {
            name: self._module.Image(picture.repeat(3 // picture.shape[-1], -1)) for name, picture in pictures.items()
        }
        with _aside():
            self._module.log(made, step=step)

    def finish(self) -> None:
        """End the run there."""
        with _aside():
            self._module.finish()


def _run_id(path: Path, name: str, goes_on: bool) -> str:
    """The name of the run there, by which it is found again when the training goes on; a new one for a new training."""
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        said = json.loads(path.read_bytes())
        known = {key: value for key, value in said.items() if isinstance(value, str)} if isinstance(said, dict) else {}
    if not goes_on or name not in known:
        known[name] = uuid.uuid4().hex[:8]
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(known) + "\n")
    return known[name]


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What they print goes to standard error, for standard output may be read by a machine; our hooks stay ours."""
    hook, here = sys.excepthook, {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.excepthook = hook
        for signum, handler in here.items():
            if signal.getsignal(signum) is not handler:
                signal.signal(signum, handler)
