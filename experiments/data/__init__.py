"""Images or points to train on: a URI opens a `Source`, `split` divides it, `pipeline` makes it an endless stream.

Importing this package imports NumPy alone; each source imports what it needs when it is opened.
"""

from experiments.data.config import DataConfig
from experiments.data.pipeline import pipeline
from experiments.data.registry import SOURCES, divided, open_source
from experiments.data.scaling import to_model, to_uint8
from experiments.data.source import Source, split

__all__ = ["SOURCES", "DataConfig", "Source", "divided", "open_source", "pipeline", "split", "to_model", "to_uint8"]
