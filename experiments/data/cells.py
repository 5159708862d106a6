"""The pictures in a column of a Hugging Face data set: bytes in its tables, or files that these name."""

from __future__ import annotations

import io
import os
from typing import IO, Any

import numpy as np
from jaxtyping import Int64

from experiments.data.files import Names, Stamp, State, unreadable
from experiments.errors import DataError


class CellFiles:
    """The cells {"bytes", "path"} of `column` in `split`, which does not decode them."""

    def __init__(self, split: Any, column: str, where: str, rows: Int64[np.ndarray, "n"] | None = None) -> None:
        self._split, self._column, self._where = split, column, where
        self._rows = np.arange(len(split)) if rows is None else rows
        self._tables = [str(table["filename"]) for table in getattr(split, "cache_files", None) or ()]

    @property
    def place(self) -> str:
        """The tables on the disk and the column; "" of a data set that is in memory alone."""
        return f"hf:{self._where}.{self._column}:{'|'.join(self._tables)}" if self._tables else ""

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """The data set and the row."""
        return f"{self._where}[{self._rows[i]}]"

    def open(self, i: int) -> IO[bytes]:
        """The picture. Raises DataError for a row without one."""
        cell = self._cell(i)
        return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else open(cell["path"], "rb")

    def read(self, i: int) -> tuple[bytes, Stamp]:
        """The picture; where it is a file, its size and time."""
        cell = self._cell(i)
        if cell["bytes"] is not None:
            return cell["bytes"], (0, 0)
        try:
            with open(cell["path"], "rb") as file:
                status = os.fstat(file.fileno())
                return file.read(), (status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise unreadable(f"{self.name(i)}, {cell['path']},", error) from None

    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Size and time of the files, if the first row has one; else nothing, for the tables have theirs."""
        found = np.zeros((len(self), 2), np.int64)
        if self._file(0) is not None:
            for i in range(len(self)):
                if (path := self._file(i)) is not None:
                    try:
                        status = os.stat(path)
                        found[i] = status.st_size, status.st_mtime_ns
                    except OSError:
                        found[i] = -1
        return found

    def state(self) -> State:
        """Size and time of each table."""
        return tuple((status.st_size, status.st_mtime_ns) for status in map(os.stat, self._tables))

    def names(self) -> Names:
        """The numbers of the rows."""
        return Names(map(str, self._rows.tolist()))

    def take(self, rows: Int64[np.ndarray, "m"]) -> CellFiles:
        """Those of these rows."""
        return CellFiles(self._split, self._column, self._where, self._rows[rows])

    def _cell(self, i: int) -> Any:
        cell = self._split[int(self._rows[i])][self._column]
        if cell is None:
            raise DataError(f"{self.name(i)} has no picture; filter such rows out first.")
        return cell

    def _file(self, i: int) -> str | None:
        cell = self._split[int(self._rows[i])][self._column]
        return None if cell is None or cell["bytes"] is not None else cell["path"]
