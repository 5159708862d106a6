"""What the places of pictures say of their classes: the same in a folder and in a zip."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from experiments.data import open_source
from experiments.data.sources.layout import natural


@pytest.fixture(params=["folder", "zip"])
def placed(request, tmp_path):
    """Write files, by name, to a folder or a zip: grey pictures of their own number unless given; returns its URI."""

    def place(*names, **contents):
        everything = dict.fromkeys(names) | contents
        folder = tmp_path / "set"
        for i, (name, content) in enumerate(everything.items()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                Image.new("L", (3, 2), i).save(path, "png")
            else:
                path.write_bytes(content)
        if request.param == "folder":
            return f"folder:{folder}"
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name in everything:
                archive.write(folder / name, name)
        return f"zip:{tmp_path / 'set.zip'}"

    return place


def labelled(source):
    """Class name of each picture by its number."""
    numbers = source.images[:, 0, 0, 0].tolist()
    return {number: source.class_names[label] for number, label in zip(numbers, source.labels, strict=True)}


def manifest(**labels):
    return json.dumps({"labels": list(labels.items())}).encode()


def test_sub_folders_are_classes(placed):
    source = open_source(placed("dog/0.png", "cat/deep/1.png", "cat/2.png"))
    assert source.class_names == ("cat", "dog")
    assert labelled(source) == {0: "dog", 1: "cat", 2: "cat"}


def test_numbers_in_names_sort_as_numbers_and_the_order_of_images_stays(placed):
    uri = placed(*(f"{i}/a.png" for i in range(12)))
    source = open_source(uri)
    assert source.class_names == tuple(map(str, range(12)))
    assert source.labels.tolist() == source.images[:, 0, 0, 0].tolist()
    order = source.images[:, 0, 0, 0].tolist()
    assert order == sorted(range(12), key=str)
    older = open_source(uri, rules=1)
    assert older.images[:, 0, 0, 0].tolist() == order
    assert older.class_names == (("0", "1", "10", "11", *"23456789") if uri.startswith("folder") else ())


def test_the_natural_order():
    names = ["img10", "img2", "2", "10", "01", "1", "a", "B", "a b", "b", "x1y20", "x1y3", "", "9" * 9999]
    assert sorted(names, key=lambda name: (natural(name), name)) == [
        *("", "01", "1", "2", "10", "9" * 9999, "B", "a", "a b", "b", "img2", "img10", "x1y3", "x1y20")
    ]


def test_a_folder_that_wraps_everything_is_passed_through(placed):
    source = open_source(placed("images/more/b/0.png", "images/more/a/1.png", "readme.txt"), size=2)
    assert labelled(source) == {0: "b", 1: "a"}


@pytest.mark.parametrize("top", ["train", "Test", "cats"])
def test_a_single_folder_of_pictures_is_a_class_unless_it_is_a_split(placed, top):
    source = open_source(placed(f"{top}/0.png", f"{top}/1.png"))
    assert source.class_names == (("cats",) if top == "cats" else ())


def test_a_manifest_counts_where_everything_is_wrapped(placed):
    contents = manifest(**{"00000/a.png": 1, "b.png": 0})
    uri = placed("mydata/b.png", "mydata/00000/a.png", **{"mydata/dataset.json": contents})
    source = open_source(uri)
    assert source.labels.tolist() == [1, 0]
    assert source.notes == ()
    if uri.startswith("zip"):
        assert open_source(uri, rules=1).labels is None


def test_a_backslash_is_a_slash(placed):
    names = {"set\\a\\0.png": None, "set\\b\\1.png": None}
    assert labelled(open_source(placed(**names))) == {0: "a", 1: "b"}
    contents = manifest(**{"a/0.png": 3, "b\\1.png": 1})
    assert open_source(placed(**names, **{"set\\dataset.json": contents})).labels.tolist() == [3, 1]


def test_splits_are_no_classes(placed, refused):
    sentence = refused(placed("train/0.png", "test/1.png", "README_images/2.png"), "the splits test, train and not")
    assert ("/train." in sentence) == ("folder" in sentence)


def test_splits_of_other_names_too(placed, refused):
    refused(placed("wrapped/train2017/0.png", "wrapped/val2017/1.png", "wrapped/x/2.png"), "train2017, val2017")


def test_a_train_among_other_vehicles_is_a_class(placed):
    assert open_source(placed("train/0.png", "bus/1.png", "test tube/2.png")).class_names == (
        "bus",
        "test tube",
        "train",
    )


@pytest.mark.parametrize(
    ("folders", "note"),
    [
        (("train", "holdout"), "the folders holdout, train are classes, though called like splits"),
        (("dev", "eval"), "the folders dev, eval are classes, though called like splits"),
        (("Held-Out", "x"), "the folder Held-Out is a class, though called like a split (if it is, move it away)"),
        (("cat", "dog", "test"), "the folder test is a class, though called like a split"),
        (("cat", "evaluation_set"), "the folder evaluation_set is a class, though called like a split"),
        (("cat", "test tube", "trains", "developer"), None),
    ],
)
def test_a_class_that_is_called_like_a_split_is_mentioned(placed, folders, note):
    uri = placed(*(f"{folder}/{i}.png" for i, folder in enumerate(folders)))
    source = open_source(uri)
    assert set(source.class_names) == set(folders)  # as they were read before it was mentioned
    assert [said.startswith(note or "-") for said in source.notes] == [True] * (note is not None)
    assert open_source(uri, rules=1).notes == ()


def test_what_is_passed_over_is_counted(placed):
    texts = {"a/x.txt": b"", "notes.TXT": b"", "LICENSE": b"", ".hidden.png": b"", "._a.png": b"", ".DS_Store": b""}
    source = open_source(placed("a/0.png", "b/1.png", **texts))
    assert source.notes[0] == "3 files passed over that are no pictures (.txt 2, no ending 1)"
    assert source.notes[1:] == ("a hidden picture passed over",)


@pytest.mark.parametrize("ending", ["heic", "JXL", "tga", "psd", "cr2", "dng", "exr"])
def test_pictures_that_cannot_be_read_are_refused(placed, refused, ending):
    uri = placed("0.png", **{f"p{i}.{ending}": b"?" for i in range(3)})
    refused(
        uri, f"p0.{ending} and 2 more are of a kind that scorefield does not read (.{ending.lower()})", "convert to PNG"
    )
    assert len(open_source(uri, rules=1)) == 1


@pytest.mark.parametrize(("ending", "feature"), [("avif", "avif"), ("jp2", "jpg_2000"), ("j2k", "jpg_2000")])
def test_newer_formats_are_read_where_pillow_can(tmp_path, refused, ending, feature):
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4
    uri = f"folder:{tmp_path}"
    if features.check(feature):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(smooth).convert("RGB").save(path, quality=95) if ending == "avif" else Image.fromarray(
            smooth
        ).save(path)
        image = open_source(uri).images[0, ..., 0]
        assert np.abs(image.astype(int) - smooth).max() < 8
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        refused(uri, path)
    else:
        (tmp_path / f"a.{ending}").write_bytes(b"?")
        refused(uri, f"a.{ending} is of a kind that scorefield does not read")
    Image.new("L", (3, 2)).save(tmp_path / "b.png")
    assert len(open_source(uri, rules=1)) == 1


def test_metadata_beside_pictures_are_named_where_classes_are_missing(placed):
    uri = placed("c.png", **{"metadata.jsonl": b""})
    hint = f"; metadata.jsonl beside the pictures is read by hf:{uri.removeprefix('folder:')}"
    assert open_source(uri).hint == (hint if uri.startswith("folder") else "")


def test_the_strip_of_an_edit_is_no_picture_of_the_set_and_one_of_ones_own_is(placed, tmp_path):
    """So that a folder of answers is a set: `scorefield compare` and `--data folder:` take it as it is."""
    told = PngInfo()
    told.add_text("scorefield", json.dumps({"edit_sha256": "0"}))
    Image.new("L", (9, 9), 7).save(tmp_path / "sheet.png", pnginfo=told)
    sheet = (tmp_path / "sheet.png").read_bytes()
    source = open_source(placed("a.png", "b.png", **{"strip.png": sheet}))
    assert source.images[:, 0, 0, 0].tolist() == [0, 1]


def test_a_picture_that_is_called_strip_is_one(placed):
    assert len(open_source(placed("a.png", "strip.png"))) == 2
