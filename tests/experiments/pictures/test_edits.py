"""Names of the answers to pictures."""

from pathlib import Path

from experiments.pictures.edits import names_of


def test_no_two_pictures_share_a_name():
    assert names_of([Path("a.png"), Path("x/b.png"), Path("y/b.jpg")]) == ["a", "b-1", "b-2"]
    assert names_of([Path("b.png"), Path("x/b.png"), Path("b-0.png")]) == ["b-0", "b-1", "b-0-2"]
