"""The files of pictures behind a data set: named, opened, and known again by what each was when it was looked at.

Of a million files a few dozen bytes each are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import IO, Protocol, overload

import numpy as np
from jaxtyping import Int64

from experiments.errors import DataError, reason

State = tuple[tuple[int, int], ...]
"""Size in bytes and time of change in nanoseconds of the files that hold all pictures together."""
Stamp = tuple[int, int]
"""What a picture's file is known by: its size in bytes and its time of change in nanoseconds, or its checksum."""
DOUBTFUL = 50_000_000
"""Nanoseconds: a file that changed so shortly before it was read may change again and keep its time."""


class Files(Protocol):
    """Files of pictures in their order, for several threads; where `place` is told, for several processes too."""

    @property
    def place(self) -> str:
        """What and where they are, the same as long as it is the same; "" where nobody can say."""
        ...

    def __len__(self) -> int:
        """Their number."""
        ...

    def name(self, i: int) -> str:
        """What sentences call the i-th."""
        ...

    def open(self, i: int) -> IO[bytes]:
        """The i-th from its beginning."""
        ...

    def read(self, i: int) -> tuple[bytes, Stamp]:
        """(All of the i-th, its stamp now). Raises DataError naming it when it has vanished or cannot be read."""
        ...

    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """The stamps of all."""
        ...

    def state(self) -> State:
        """That of what holds them all; empty where each has its own file."""
        ...

    def names(self) -> Names:
        """What each is called within `place`."""
        ...

    def take(self, rows: Int64[np.ndarray, "m"]) -> Files:
        """Those of these rows."""
        ...


class Names(Sequence[str]):
    """Many short texts in one array of bytes: as a list they would take five times the memory."""

    def __init__(self, names: Iterable[str]) -> None:
        parts = [name.encode("utf-8", "surrogatepass") for name in names]
        self.text = np.frombuffer(b"".join(parts), np.uint8)
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    @staticmethod
    def of(text: np.ndarray, ends: np.ndarray) -> Names:
        """Those that are kept in these arrays."""
        names = Names(())
        names.text, names.ends = text, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        start = self.ends[i - 1] if i else 0
        return self.text[start : self.ends[i]].tobytes().decode("utf-8", "surrogatepass")

    def same(self, other: Names) -> bool:
        """Whether these are those, in their order."""
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.text, other.text)

    def take(self, rows: Int64[np.ndarray, "m"]) -> Names:
        """Those of these rows."""
        return Names(self[int(i)] for i in rows)


class FolderFiles:
    """Files below a folder, each by its path from there."""

    def __init__(self, folder: str, names: Iterable[str]) -> None:
        self.folder = folder
        self._absolute = os.path.abspath(folder)
        self._names = names if isinstance(names, Names) else Names(names)

    @property
    def place(self) -> str:
        """The folder from the root."""
        return f"folder:{os.path.realpath(self._absolute)}"

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        """The path as the folder was typed."""
        return os.path.join(self.folder, self._names[i])

    def open(self, i: int) -> IO[bytes]:
        """The file."""
        return open(os.path.join(self._absolute, self._names[i]), "rb")

    def read(self, i: int) -> tuple[bytes, Stamp]:
        """The file and its size and time."""
        try:
            with self.open(i) as file:
                status = os.fstat(file.fileno())
                return file.read(), (status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise unreadable(self.name(i), error) from None

    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Size and time of each; −1 of one that cannot be looked at."""
        found = np.full((len(self), 2), -1, np.int64)
        for i, name in enumerate(self._names):
            try:
                status = os.stat(os.path.join(self._absolute, name))
            except OSError:
                continue
            found[i] = status.st_size, status.st_mtime_ns
        return found

    def state(self) -> State:
        """Nothing: each has its own."""
        return ()

    def names(self) -> Names:
        """The paths from the folder."""
        return self._names

    def take(self, rows: Int64[np.ndarray, "m"]) -> FolderFiles:
        """Those of these rows."""
        taken = FolderFiles(self.folder, self._names.take(rows))
        taken._absolute = self._absolute
        return taken


def unreadable(name: str, error: BaseException) -> DataError:
    """What is said of a file that the system does not give."""
    return DataError(f"{name} cannot be read ({reason(error)}); restore or remove it.")
