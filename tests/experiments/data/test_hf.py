"""`hf:` against a stand-in for the `datasets` library, which is a large optional dependency."""

import io
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow

from experiments.config.tree import Config
from experiments.data import DataConfig, open_source, split
from experiments.data.check import check
from experiments.errors import UsageError
from experiments.training.data import open_data

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


def pictures(rows: Sequence[int] = range(5), labels=None, kind=None, **texts):
    cells = [{"bytes": png(PIXELS[i]), "path": None} for i in rows]
    features, columns = (
        {"id": SimpleNamespace(dtype="string"), "picture": Image()},
        {"id": ["x"] * len(cells), "picture": cells},
    )
    if labels is not None:
        features["label"], columns["label"] = kind or ClassLabel(("cat", "dog", "owl")), labels
    for name, values in texts.items():
        features[name], columns[name] = SimpleNamespace(dtype="string"), values
    return Split(features, columns)


@pytest.fixture
def hub(monkeypatch):
    """What the stand-in loads: by name from the hub, by path from the disk."""
    shelf = {}

    def load(name, **options):
        name = (name, *map(str, options.values())) if options else name
        if name not in shelf:
            raise FileNotFoundError(f"no data set {name}.\nAnd much more.")
        return shelf[name]

    library = SimpleNamespace(Image=Image, ClassLabel=ClassLabel, load_dataset=load, load_from_disk=load)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return shelf


def test_without_the_library_the_extra_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:someone/pets", "hf:someone/pets", "scorefield[hf]")


def test_a_hub_that_is_not_reached_is_asked_once_and_told_of_in_one_line(hub, monkeypatch, caplog):
    asked, client = [], logging.getLogger("huggingface_hub.utils._http")

    def load(name):
        client.warning("Retrying in 1s [Retry 1/5].")
        asked.append(name)
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load)
    report = check(DataConfig(source="hf:someone/pets"))
    assert asked == ["someone/pets"]
    assert len(report.refused) == 1
    assert "cannot be loaded (Couldn't reach the hub)" in report.refused[0]
    client.warning("of another's request")
    assert [record.message for record in caplog.records] == ["of another's request"]


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


def test_a_column_of_texts_or_numbers_may_be_named(hub):
    train = pictures(labels=[0, 1, 2, 0, 1], breed=["pug", "a10", "a9", "pug", "a9"])
    train.features["age"], train.columns["age"] = SimpleNamespace(dtype="int64"), [3, 1, 1, 0, 0]
    hub["pets"] = {"train": train, "test": pictures([3, 1], [1, -1], breed=["a9", "new"])}
    source = open_source("hf:pets", label_column="breed")
    assert source.held_out is not None  # though its other labels are withheld
    assert source.class_names == source.held_out.class_names == ("a9", "a10", "new", "pug")
    assert (source.labels.tolist(), source.held_out.labels.tolist()) == ([3, 1, 0, 3, 0], [0, 2])
    del hub["pets"]["test"]
    assert open_source("hf:pets", label_column="age").labels.tolist() == [3, 1, 1, 0, 0]
    assert open_source("hf:pets").class_names == ("cat", "dog", "owl")


def test_columns_that_might_be_classes_are_named(hub, refused):
    hub["pets"] = {"train": pictures(breed=["pug", "a10", "a9", "pug", None])}
    hint = ": its columns are id (string), breed (string); choose one by --data.label-column"
    assert open_source("hf:pets").hint == hint
    with pytest.raises(UsageError, match=r"its columns are id \(string\), breed.*label-column; label the images, or"):
        open_data(Config(data=DataConfig(source="hf:pets"), conditional=True))
    refused("hf:pets", "no column bred", "did you mean 'breed'", "id, breed", label_column="bred")
    refused("hf:pets", "no column picture", label_column="picture")
    refused("hf:pets", "hf:pets[train].breed has rows without a text", label_column="breed")
    with pytest.raises(UsageError, match=r"--data\.label-column goes with hf:NAME, and digits has no columns"):
        open_source("digits", label_column="breed")


def test_a_parquet_file_is_read(hub, tmp_path):
    path = tmp_path / "pets.parquet"
    path.touch()
    hub["parquet", str({"train": str(path)})] = {"train": pictures()}
    assert len(open_source(f"hf:{path}")) == 5


def folder_of(tmp_path, *names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(PIXELS[0]))
    return f"hf:{tmp_path}"


def test_a_split_word_within_a_name_is_no_split(hub, tmp_path):
    uri = folder_of(tmp_path, "bullet_train/a.png", "car/test_b.png", "car/c.png")
    (tmp_path / "metadata.csv").touch()
    hub["imagefolder", str(tmp_path), str({"train": ["**"]})] = {"train": pictures()}
    hub[str(tmp_path)] = {"train": pictures([0])}
    assert len(open_source(uri)) == 5
    assert len(open_source(uri, rules=1)) == 1  # as it was


def test_folders_at_the_top_are_splits_if_all_are(hub, tmp_path, refused):
    uri = folder_of(tmp_path, "Train/cat/a.png", "val/cat/b.png", "valid/c.png")
    patterns = {"train": ["Train/**"], "validation": ["val/**", "valid/**"]}
    hub["imagefolder", str(tmp_path), str(patterns)] = {"train": pictures(), "validation": pictures([0])}
    assert open_source(uri).held_out is not None
    folder_of(tmp_path, "extra/d.png")
    refused(uri, "the splits Train, val, valid beside other folders")


@pytest.mark.parametrize("name", ["a.parquet", "README.md"])
def test_a_folder_of_tables_or_with_splits_of_its_own_is_left_to_the_library(hub, tmp_path, name):
    uri = folder_of(tmp_path, "car/a.png")
    (tmp_path / name).write_text("configs:\n- data_files: x")
    hub[str(tmp_path)] = {"train": pictures()}
    assert len(open_source(uri)) == 5
