"""Grids show every image once, and files come back with their pixels and their provenance."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.errors import DataError, UsageError
from experiments.pictures import files

PROVENANCE = {"seed": 3, "steps": 18, "sampler": "heun", "note": "α → σ", "config": {"batch": [1, 2.5], "none": None}}


def some(n, height=3, width=5, channels=1):
    """Images none of whose pixels is the colour of the separator."""
    values = np.random.default_rng(n).integers(0, 255, (n, height, width, channels), np.uint8)
    return values + (values >= files.SEPARATOR).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("n", "columns", "pad", "scale"), [(6, 3, 2, 4), (7, 3, 1, 1), (5, 1, 0, 2), (2, 9, 3, 3)])
def test_each_tile_is_in_its_place_and_all_else_is_separator(n, columns, pad, scale, channels):
    images = some(n, channels=channels)
    picture = files.contact_sheet(images, columns, pad, scale)
    columns = min(columns, n)
    height, width = 3 * scale, 5 * scale
    assert picture.shape == (pad + -(-n // columns) * (height + pad), pad + columns * (width + pad), channels)
    rest = np.ones(picture.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = pad + i // columns * (height + pad), pad + i % columns * (width + pad)
        tile = np.s_[top : top + height, left : left + width]
        np.testing.assert_array_equal(picture[tile], np.kron(image, np.ones((scale, scale, 1), np.uint8)))
        assert rest[tile].all()
        rest[tile] = False
    assert (picture[rest][:, :3] == files.SEPARATOR).all()
    assert channels < 4 or (picture[rest][:, 3] == 255).all()


@pytest.mark.parametrize("n", [1, 2, 5, 16, 64, 257])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (9, 4), (4, 30), (64, 64)])
def test_automatic_grids_are_readable(n, shape):
    """Between 600 and 1200 pixels on the longer side, or not enlarged because more pixels than that were given."""
    images = some(n, *shape)
    longer = max(files.contact_sheet(images).shape)
    plain = max(files.contact_sheet(images, scale=1).shape)
    assert 600 <= longer < 1200 or longer == plain >= 600


@pytest.mark.parametrize("columns", [1, 2, 40])
def test_automatic_scale_knows_the_columns(columns):
    assert 600 <= max(files.contact_sheet(some(40, 8, 8), columns).shape) < 1200


def test_the_automatic_scale_is_the_smallest_that_will_do():
    images = some(5, 8, 8)
    scales = (scale for scale in range(1, 99) if max(files.contact_sheet(images, scale=scale).shape) >= 600)
    assert files.contact_sheet(images).shape == files.contact_sheet(images, scale=next(scales)).shape


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4)])
def test_a_grid_is_about_square(shape):
    rows, cols, _ = files.contact_sheet(some(64, *shape), pad=0).shape
    assert rows == cols


@pytest.mark.parametrize(
    ("images", "error", "word"),
    [
        (np.zeros((2, 4, 4, 2), np.uint8), DataError, "2 channels"),
        (np.zeros((0, 4, 4, 1), np.uint8), DataError, "at least one"),
        (np.zeros((4, 4, 1), np.uint8), DataError, "shape"),
        (np.zeros((2, 4, 4, 1), np.float32), TypeError, "to_uint8"),
    ],
)
def test_what_is_no_picture_is_refused(images, error, word, tmp_path):
    with pytest.raises(error, match=word):
        files.contact_sheet(images)
    with pytest.raises(error, match=word):
        files.save_npz(tmp_path / "a.npz", images, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [{"columns": 0}, {"pad": -1}, {"scale": 0}])
def test_grids_that_cannot_be_drawn_are_refused(arguments):
    with pytest.raises(UsageError, match="columns"):
        files.contact_sheet(some(2), **arguments)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_png_returns_pixels_and_provenance(channels, mode, tmp_path):
    image = some(1, channels=channels)[0]
    path = tmp_path / "made" / "on the way" / "a.png"
    files.save_png(path, image, {**PROVENANCE, "scorefield": "theirs"})
    with Image.open(path) as opened:
        assert opened.mode == mode
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
        assert opened.info["sampler"] == "heun"
        assert opened.info["steps"] == "18"
        assert opened.info["note"] == PROVENANCE["note"]
    assert files.read_provenance(path) == {**PROVENANCE, "scorefield": "theirs"}
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_singles_are_named_by_their_seed(tmp_path):
    images = some(3)
    paths = files.save_singles(tmp_path, images, [7, 0, 1234567], {"seed": "all", "steps": 4})
    assert [path.name for path in paths] == ["000007.png", "000000.png", "1234567.png"]
    for path, image, seed in zip(paths, images, [7, 0, 1234567], strict=True):
        assert files.read_provenance(path) == {"seed": seed, "steps": 4}
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image[..., 0])
    for seeds in ([1, 2], [1, 1, 2]):
        with pytest.raises(ValueError, match="different seeds"):
            files.save_singles(tmp_path, images, seeds, {})


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (4, np.uint8), (1, np.uint16)])
def test_a_picture_is_read_as_it_was_written(tmp_path, channels, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 5, channels), dtype, endpoint=True)
    files.save_png(tmp_path / "a.png", image, PROVENANCE)
    pixels, said = files.read_png(tmp_path / "a.png")
    assert (pixels.dtype, said) == (dtype, files.read_provenance(tmp_path / "a.png"))
    np.testing.assert_array_equal(pixels, image)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-4])
    with pytest.raises(DataError, match="cannot be read as a picture"):
        files.read_png(tmp_path / "a.png")


def test_the_provenance_of_a_picture_of_any_size_is_read(tmp_path, monkeypatch):
    """Pillow takes a large one for an attack on the memory, which only its pixels would be."""
    files.save_png(tmp_path / "a.png", some(1)[0], PROVENANCE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    assert files.read_provenance(tmp_path / "a.png")["sampler"] == PROVENANCE["sampler"]


def test_npz_and_its_sidecar(tmp_path):
    path, images, seeds = tmp_path / "samples.npz", some(4, channels=2)[..., :1], np.arange(4)
    files.save_npz(path, images, PROVENANCE, seeds=seeds)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["seeds"], seeds)
    assert files.read_provenance(path).items() >= PROVENANCE.items()
    assert files.read_provenance(path)["arrays"]["images"] == [4, 3, 5, 1]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"samples\.json"):
        files.read_provenance(path)


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    files.save_png(path, some(1)[0], {"which": "old"})

    def full_disk(self, file, **arguments):
        file.write_bytes(b"\x89PNG half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(UsageError, match=r"a\.png.*No space left"):
        files.save_png(path, some(2)[1], {"which": "new"})
    assert files.read_provenance(path) == {"which": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        files.save_png(tmp_path / "file" / "a.png", some(1)[0], {})


def test_files_without_provenance_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    contents = {"plain.png": buffer.getvalue(), "cut.png": buffer.getvalue()[:20], "text.png": b"hello"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.json").write_text("{")
    for name in (*contents, "missing.png", "missing.npz", "a.npz"):
        with pytest.raises(DataError, match="scorefield wrote"):
            files.read_provenance(tmp_path / name)


def test_a_foreign_file_is_told_from_our_own(tmp_path):
    files.save_arrays(tmp_path / "scores.npz", {}, scores=np.arange(3))
    files.save_png(tmp_path / "a.png", some(1)[0], {})
    files.require_own(tmp_path / "scores.npz", tmp_path / "a.png", tmp_path / "nowhere.png")
    np.savez(tmp_path / "theirs.npz", scores=np.arange(3))
    with pytest.raises(UsageError, match="is there, and is not one of scorefield's own; give another --outdir"):
        files.require_own(tmp_path / "theirs.npz")
