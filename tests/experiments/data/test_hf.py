"""`hf:` against a stand-in for the `datasets` library, which is a large optional dependency."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow

from experiments.data import open_source, split

PIXELS = np.random.default_rng(4).integers(0, 256, (5, 4, 4), np.uint8)


@dataclass
class Image:
    decode: bool = True


@dataclass
class ClassLabel:
    names: tuple = ()
    dtype: str = "int64"


def png(pixels):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "png")
    return file.getvalue()


class Split:
    """The few methods of `datasets.Dataset` that are used."""

    def __init__(self, features, columns):
        self.features, self.columns = features, columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {name: c[key] for name, c in self.columns.items()}

    def select_columns(self, names):
        return Split({n: self.features[n] for n in names}, {n: self.columns[n] for n in names})

    def cast_column(self, name, feature):
        assert feature == Image(decode=False)  # so that our own rules decode, limits included
        return Split({**self.features, name: feature}, self.columns)


def pictures(rows: Sequence[int] = range(5), labels=None, kind=None):
    cells = [{"bytes": png(PIXELS[i]), "path": None} for i in rows]
    features, columns = (
        {"id": SimpleNamespace(dtype="string"), "picture": Image()},
        {"id": ["x"] * len(cells), "picture": cells},
    )
    if labels is not None:
        features["label"], columns["label"] = kind or ClassLabel(("cat", "dog", "owl")), labels
    return Split(features, columns)


@pytest.fixture
def hub(monkeypatch):
    """What the stand-in loads: by name from the hub, by path from the disk."""
    shelf = {}

    def load(name):
        if name not in shelf:
            raise FileNotFoundError(f"no data set {name}.\nAnd much more.")
        return shelf[name]

    library = SimpleNamespace(Image=Image, ClassLabel=ClassLabel, load_dataset=load, load_from_disk=load)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return shelf


def test_without_the_library_the_extra_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:someone/pets", "hf:someone/pets", "scorefield[hf]")


def test_a_name_on_the_hub_gives_train_and_test(hub):
    hub["someone/pets"] = {
        "train": pictures(labels=[0, 1, 2, 0, 1]),
        "validation": pictures([4], [0]),
        "test": pictures([3, 1], [1, 1]),
    }
    train, held_out = split(open_source("hf:someone/pets"))
    np.testing.assert_array_equal(train.images[..., 0], PIXELS)
    np.testing.assert_array_equal(train.labels, [0, 1, 2, 0, 1])
    assert held_out is not None
    np.testing.assert_array_equal(held_out.images[..., 0], PIXELS[[3, 1]])
    assert train.class_names == held_out.class_names == ("cat", "dog", "owl")


def test_a_test_split_whose_labels_are_withheld_is_passed_over(hub):
    hub["pets"] = {
        "train": pictures(labels=[0, 1, 2, 0, 1]),
        "test": pictures([3, 1], [-1, -1]),
        "validation": pictures([4], [2]),
    }
    held_out = open_source("hf:pets").held_out
    assert held_out is not None
    np.testing.assert_array_equal(held_out.labels, [2])


def test_a_single_split_is_taken_whatever_its_name(hub):
    hub["pets"] = {"test": pictures()}
    source = open_source("hf:pets", size=2)
    assert source.held_out is None
    assert source.labels is None
    assert source.event_shape == (2, 2, 1)
    assert source.name == "hf:pets"


@pytest.mark.parametrize("marker", ["state.json", "dataset_dict.json"])
def test_a_saved_folder_is_loaded_from_the_disk(hub, monkeypatch, tmp_path, marker):
    (tmp_path / marker).touch()
    hub[str(tmp_path)] = pictures(labels=[0, 1, 1, 0, 1], kind=SimpleNamespace(dtype="int64"))
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", None)
    assert open_source(f"hf:{tmp_path}").class_names == ("0", "1")


def test_pictures_that_are_kept_beside_are_opened_by_their_path(hub, tmp_path):
    split_ = pictures([0, 1])
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    split_.columns["picture"][0] = {"bytes": None, "path": str(tmp_path / "a.png")}
    hub["pets"] = {"train": split_}
    np.testing.assert_array_equal(open_source("hf:pets").images[..., 0], PIXELS[:2])


def test_what_cannot_be_used_is_refused(refused, hub):
    refused("hf:someone/none", "hf:someone/none", "no data set someone/none. And much more")
    hub["a"] = {"train": Split({"text": SimpleNamespace(dtype="string")}, {"text": ["x"]})}
    refused("hf:a", "hf:a[train]", "text")
    hub["b"] = {"left": pictures(), "right": pictures()}
    refused("hf:b", "hf:b", "left, right")
    hub["c"] = {"train": pictures([])}
    refused("hf:c", "hf:c[train]", "no rows")
    hub["d"] = {"train": pictures(labels=[0, 1, None, 0, 1])}
    refused("hf:d", "hf:d[train].label")
    hub["e"] = {"train": pictures(labels=[0, 1, -1, 0, 1])}
    refused("hf:e", "hf:e[train].label", "-1")
    hub["f"] = {"train": pictures()}
    hub["f"]["train"].columns["picture"][3] = None
    refused("hf:f", "hf:f[train][3]")
    hub["g"] = {"train": pictures(labels=[0, 1, 3, 0, 1])}
    refused("hf:g", "hf:g[train]", "3")
