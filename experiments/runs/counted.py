"""Training images by class of a run that was made before they were noted."""

from __future__ import annotations

import dataclasses

from experiments.errors import ScorefieldError, warn
from experiments.runs.model import Model


def with_counts(model: Model) -> Model:
    """The model with `class_counts`, from the run's data where its checkpoint has none, so that `require_known` sees.

    They are counted only if they are those that it was trained on; otherwise a line on standard error says that a class
    without training images is drawn like any other.
    """
    from experiments.data import divided
    from experiments.data.place import find

    config, facts = model.config.data, model.facts
    if not model.num_classes or facts.class_counts is not None or model.imported is not None:
        return model
    why = "it kept no fingerprint to know its data by"
    if facts.fingerprint:
        try:
            uri = find(config.source, facts.place)[0] if model.data is None else model.data
            training, _ = divided(dataclasses.replace(config, source=uri))
            if training.fingerprint == facts.fingerprint:
                return dataclasses.replace(model, facts=dataclasses.replace(facts, class_counts=training.class_counts))
            why = f"{uri} holds other images now"
        except ScorefieldError as error:
            why = f"its data cannot be read ({str(error).rstrip('.')})"
    warn(f"nobody has counted this run's training images by class, and {why}; a class without any is drawn too.")
    return model
