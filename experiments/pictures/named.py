"""Names, paths and classes of seeds, each of which is made when it is asked for: of a million seeds none is kept."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.sampling.labels import Classes


@dataclass(frozen=True)
class Named(Container[str]):
    """The names of the pictures of seeds."""

    seeds: Sequence[int]
    seed_of: Callable[[str], int | None]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.seed_of(name) in self.seeds


@dataclass(frozen=True)
class Paths(Sequence[Path]):
    """The pictures of seeds in a folder."""

    folder: Path
    seeds: Sequence[int]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Paths(self.folder, self.seeds[place], self.name)
        return self.folder / self.name(self.seeds[place])


@dataclass(frozen=True)
class Labels(Sequence[int]):
    """The classes of seeds, each part of which is computed when it is asked for."""

    classes: Classes
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.classes.of(self.seeds[place])
        return int(self.classes.of([self.seeds[place]])[0])
