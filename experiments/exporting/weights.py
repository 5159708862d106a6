"""The parameters of a run alone, as a file of safetensors with the configuration in its metadata.

    arrays                  by the path of each parameter, `conv_in.kernel`, in the layout that they have here
    metadata `scorefield`   JSON: the configuration, the shape of the data and their classes, which parameters they are,
                            where they come from, and by which versions

`scorefield import scorefield:FILE.safetensors` makes a run of it again (`experiments.importing.scorefield`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.file import document
from experiments.errors import CheckpointError, UsageError
from experiments.exporting.bundle import require_new_file
from experiments.files import replacing
from experiments.importing.safetensors_writer import write_safetensors
from experiments.importing.scorefield import KEY, VERSION, places
from experiments.runs.model import Model
from experiments.runs.provenance import origin


def export_weights(path: Path, model: Model) -> dict[str, Any]:
    """Write the model's parameters to `path`, whole or not at all, and return what was written, as JSON values.

    Raises UsageError where `path` is there already, is not called .safetensors, or the disk refuses.
    """
    if path.suffix != ".safetensors":
        raise UsageError(f"--weights {path} is no name of such a file; write {path.with_suffix('.safetensors').name}.")
    require_new_file(path, "--weights")
    said = {
        "version": VERSION,
        "config": document(model.config),
        "facts": {name: value for name, value in model.facts.to_json().items() if name != "place"},
        "parameters": model.parameters,
        "origin": origin(model),
    }
    arrays = {}
    for name, place in places(model.network).items():
        value: Any = model.params
        for key in place:
            value = value[key]
        arrays[name] = np.asarray(value)
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{model.path}: {name} holds numbers that are not finite; export another checkpoint.")
    with replacing(path) as scratch, scratch.open("wb") as file:
        write_safetensors(file, arrays, {KEY: json.dumps(said)})
    count = sum(math.prod(array.shape) for array in arrays.values())
    return {"parameters": count, "arrays": len(arrays), "of": model.parameters, "origin": said["origin"]}
