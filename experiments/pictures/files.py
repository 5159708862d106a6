"""Pictures on the disk: contact sheets, single PNGs and npz files, each of which says where it came from.

Images are uint8 (n, height, width, channels) with 1 (grey), 3 (RGB) or 4 (RGBA) channels, or uint16 of grey; contact
sheets have 8 bits. Every file is written
beside its place and moved there whole, so that nobody ever reads half a picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt, UInt8
from numpy.lib import format as npy

from experiments.errors import DataError, UsageError
from experiments.files import replacing, write_text

KEY = "scorefield"
"""The PNG text chunk that holds the whole provenance as JSON."""


_ROWS = 2**16  # of an array that become one at a time
_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last bytes of every PNG

SHORTEST, SEPARATOR = 600, 64  # pixels of a contact sheet's longer side at least, and the grey between its tiles


Images = UInt[np.ndarray, "n height width channels"]


def contact_sheet(
    images: Images, columns: int | None = None, pad: int = 8, scale: int | Literal["auto"] = "auto"
) -> UInt8[np.ndarray, "rows cols channels"]:
    """One picture of all the images, row by row, with `pad` grey pixels around each.

    Each pixel becomes a square of scale × scale equal pixels: image i lies at row i // columns and column
    i % columns, its corner at pad + row (scale·height + pad), pad + column (scale·width + pad). "auto" is the smallest
    scale that makes the longer side at least 600 pixels; it is then at most 1200, or the scale is 1.
    Without `columns` the picture is roughly square.

    Raises DataError for images that no PNG can hold, UsageError for columns or scale below 1 and pad below 0.
    """
    n, height, width, channels = check(images).shape
    if images.dtype != np.uint8:
        raise DataError("a contact sheet has 8 bits, and the images have 16; narrow them first.")
    wanted: int = math.ceil(math.sqrt(n * height / width)) if columns is None else columns
    if wanted < 1 or pad < 0 or (scale != "auto" and scale < 1):
        raise UsageError(f"a grid with {wanted} columns, pad {pad} and scale {scale}: give at least 1, 0 and 1.")
    across = min(wanted, n)
    rows = -(-n // across)
    if scale == "auto":
        sides = ((across, width), (rows, height))
        scale = max(1, min(math.ceil((SHORTEST - pad * (tiles + 1)) / (tiles * side)) for tiles, side in sides))
    tile = (height * scale + pad, width * scale + pad)
    picture = np.full((pad + rows * tile[0], pad + across * tile[1], channels), SEPARATOR, np.uint8)
    if channels == 4:
        picture[..., 3] = 255
    for i, image in enumerate(images):
        top, left = pad + i // across * tile[0], pad + i % across * tile[1]
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        picture[top : top + height * scale, left : left + width * scale] = enlarged
    return picture


def save_png(
    path: Path,
    image: UInt[np.ndarray, "height width channels"],
    provenance: Mapping[str, Any],
    *,
    swept: bool = False,
) -> None:
    """Write one image with its provenance: the text chunk `scorefield` as JSON, and a chunk for each key.

    `swept` is as in `replacing`.
    Raises DataError for an image that no PNG can hold, UsageError when the file cannot be written.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    check(image[None])
    text = PngInfo()
    for key, value in {**provenance, KEY: dict(provenance)}.items():
        text.add_text(key, value if isinstance(value, str) else json.dumps(value))
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    with replacing(path, swept=swept) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text)


def single(seed: int) -> str:
    """The name of the picture of one seed."""
    return f"{seed:06d}.png"


def save_singles(
    folder: Path,
    images: Images,
    seeds: Sequence[int],
    provenance: Mapping[str, Any],
    facts: Sequence[Mapping[str, Any]] | None = None,
    name: Callable[[int], str] = single,
) -> list[Path]:
    """Write image i to `folder` as name(seeds[i]), the six or more digits of the seed and .png; returns the paths.

    The provenance of each file holds its own `seed` besides, and its own of `facts`; nothing is swept. Raises as
    `save_png` does, and ValueError unless every image has a seed of its own.
    """
    if len(seeds) != len(images) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds holds {len(set(seeds))} different seeds for {len(images)} images; give one for each.")
    if not len(images):
        return []
    check(images)
    paths = [folder / name(seed) for seed in seeds]

    def save(path: Path, image: np.ndarray, seed: int, own: Mapping[str, Any]) -> None:
        save_png(path, image, {**provenance, "seed": int(seed), **own}, swept=True)

    # The disk flushes many files together in hardly more time than one.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(save, paths, images, seeds, [{}] * len(paths) if facts is None else facts))
    return paths


def seed_of(name: str) -> int | None:
    """The seed whose picture has this name; None where it is no such name."""
    match = re.fullmatch(r"([0-9]{6,})\.png", name)
    seed = None if match is None else int(match[1])
    return seed if seed is not None and single(seed) == name else None


def save_npz(path: Path, images: Images, provenance: Mapping[str, Any], **arrays: np.ndarray) -> None:
    """Write the array `images`, and others such as `seeds` and `labels`, as `save_arrays` does.

    Raises DataError for images that no PNG can hold, UsageError when a file cannot be written.
    """
    save_arrays(path, provenance, images=check(images), **arrays)


def save_arrays(path: Path, provenance: Mapping[str, Any], **arrays: np.ndarray) -> None:
    """Write arrays by name, and the provenance next to them as JSON.

    The file beside NAME.npz is NAME.json; it also holds the shapes and the SHA-256 of the npz.
    Raises UsageError when a file cannot be written.
    """
    named: dict[str, Any] = dict(arrays)
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **named)
        _describe(path, temporary, provenance, {name: list(array.shape) for name, array in named.items()})


class ArrayWriter:
    """An npz file with its provenance, as `save_arrays` writes it, of which one array comes in parts along its rows."""

    def __init__(self, path: Path, name: str, count: int, **arrays: np.ndarray | Sequence[int]) -> None:
        """The array `name` will have `count` rows; `arrays` are the others. Raises UsageError as `save_arrays`.

        What is no array yet, such as a range, becomes one part by part.
        """
        self._path, self._name, self._count, self._stack = path, name, count, contextlib.ExitStack()
        self._part: Any = None
        self._finished = False
        self._temporary = self._stack.enter_context(replacing(path))
        with self._in_a_sentence():
            self._archive = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_DEFLATED)
            self._shapes: dict[str, list[int]] = {}
            for other, rows in arrays.items():
                for start in range(0, max(1, len(rows)), _ROWS):
                    self._write(other, len(rows), np.asarray(rows[start : start + _ROWS]))
                self._end()

    def add(self, rows: np.ndarray) -> None:
        """Write some more rows. Raises UsageError when the disk refuses."""
        with self._in_a_sentence():
            self._write(self._name, self._count, rows)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Write the provenance, and move the files to their places. Raises UsageError when the disk refuses."""
        with self._in_a_sentence():
            self._end()
            self._archive.close()
            _describe(self._path, self._temporary, provenance, self._shapes)
        self._stack.close()
        self._finished = True

    def close(self, error: BaseException | None) -> None:
        """Remove what is not finished; `error` is what has come between, if anything has."""
        if self._finished:
            return
        for part in (self._part, self._archive):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                part.close()
        error = error or ValueError("not finished")
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _write(self, name: str, count: int, rows: np.ndarray) -> None:
        """Write some rows of an array that will have `count` of them."""
        if self._part is None:
            shape = (count, *rows.shape[1:])
            self._shapes[name] = list(shape)
            self._part = self._archive.open(f"{name}.npy", "w", force_zip64=True)
            description = npy.dtype_to_descr(rows.dtype)
            npy.write_array_header_1_0(self._part, {"descr": description, "fortran_order": False, "shape": shape})
        self._part.write(np.ascontiguousarray(rows).data)

    def _end(self) -> None:
        self._part.close()
        self._part = None

    @contextlib.contextmanager
    def _in_a_sentence(self) -> Any:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise UsageError(f"{self._path} cannot be written ({why}); choose another place.") from None


def _describe(path: Path, written: Path, provenance: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """Write the JSON beside the npz file `path`, which lies at `written` yet: it is never there without."""
    said = {**provenance, "arrays": shapes, "sha256": _digest(written)}
    write_text(path.with_suffix(".json"), json.dumps(said, indent=2) + "\n")


def read_provenance(path: Path) -> dict[str, Any]:
    """What `save_png` wrote into a PNG, or `save_arrays` beside an npz file.

    Raises DataError when the file is missing, cannot be read or carries no provenance.
    """
    try:
        text = path.with_suffix(".json").read_text() if path.suffix == ".npz" else _png_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} does not exist; give a file that scorefield wrote.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a picture ({error}); give a PNG or npz that scorefield wrote."
        ) from None
    try:
        provenance = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} carries no readable provenance ({error}); give a file that scorefield wrote."
        ) from None
    if path.suffix == ".npz":
        with contextlib.suppress(OSError):
            if provenance.get("sha256") == _digest(path):
                return provenance
        raise DataError(f"{path} is not the file that {path.with_suffix('.json').name} describes; write it anew.")
    return provenance


def read_png(path: Path) -> tuple[UInt[np.ndarray, "height width channels"], dict[str, Any]]:
    """(The pixels, the provenance) that `save_png` wrote. Raises DataError as `read_provenance`."""
    from PIL import Image

    provenance = read_provenance(path)
    try:
        with open(path, "rb") as file, Image.open(file, formats=["PNG"]) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}); remove it, and draw it again.") from None
    pixels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16)  # some Pillows have 32 bits for 16
    return pixels.reshape(*pixels.shape[:2], -1), provenance


def read_rows(path: Path, name: str, rows: int) -> Iterator[np.ndarray]:
    """The array `name` of a file that `ArrayWriter` wrote, so many rows at a time. Raises DataError where it cannot."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file)
            of_one = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], rows):
                count = min(rows, shape[0] - start)
                yield np.frombuffer(file.read(count * of_one), dtype).reshape(count, *shape[1:])
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it, and draw its samples again.") from None


def require_own(*paths: Path) -> None:
    """Raise UsageError where one of the files is there and is not one that scorefield wrote."""
    for path in paths:
        try:
            if path.is_symlink() or path.exists():
                read_provenance(path)
        except DataError:
            raise UsageError(
                f"{path} is there, and is not one of scorefield's own; give another --outdir, or move it away; nothing "
                "was overwritten."
            ) from None


def check(images: np.ndarray) -> np.ndarray:
    """`images`, if they are uint8 (n, height, width, channels) that a PNG can hold, or uint16 with one channel.

    Raises DataError when they are not images, are empty or have another number of channels, TypeError when of another
    type.
    """
    if images.dtype != np.uint8 and not (images.dtype == np.uint16 and images.shape[-1:] == (1,)):
        raise TypeError(f"images are {images.dtype}; pass them through experiments.data.scaling.to_uint8 first.")
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(f"images have shape {images.shape}; give at least one, as (n, height, width, channels).")
    if images.shape[-1] not in (1, 3, 4):
        raise DataError(
            f"images have {images.shape[-1]} channels; a PNG holds 1 (grey), 3 (RGB) or 4 (RGBA), so choose among them."
        )
    return images


def _png_text(path: Path) -> str:
    """The JSON text chunk of a PNG. Raises ValueError when there is none, and as Pillow where a checksum is wrong.

    It may have any number of pixels, for they are not read.
    """
    from PIL.PngImagePlugin import PngImageFile

    with open(path, "rb") as file, PngImageFile(file) as picture:
        text = picture.info.get(KEY)
        file.seek(-len(_END), 2)
        if file.read() != _END:
            raise ValueError("it is cut short")
        picture.verify()
    if not isinstance(text, str):
        raise ValueError("it has no text chunk named scorefield")
    return text


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
