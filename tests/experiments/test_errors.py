"""Sentences of errors: one line, never long, whatever names they quote."""

import pytest

from experiments.errors import LIMIT, DataError, one_line


@pytest.mark.parametrize(
    "name", ["a\nb\r\tc\x1b[31m", "\udcff.png", "x" * 5000, "/".join(["folder"] * 900), " ".join(["word"] * 900), ""]
)
def test_a_sentence_is_one_line_that_can_be_printed(name):
    sentence = str(DataError(f"{name} cannot be read (no such file); restore or remove it."))
    assert len(sentence) <= LIMIT
    assert sentence.isprintable()
    assert sentence.encode()
    assert sentence.endswith("restore or remove it.")


def test_a_long_path_keeps_its_beginning_and_more_of_its_end():
    path = "/home/someone/" + "deep/" * 200 + "picture.png"
    sentence = one_line(f"{path} is not a picture; remove it.")
    assert sentence.startswith("/home/someone/deep/")
    assert sentence.endswith("deep/picture.png is not a picture; remove it.")
    assert len(sentence) == LIMIT


def test_what_fits_is_left_as_it_is():
    assert one_line("α(t) of “ä/ö” is 3; give 4.") == "α(t) of “ä/ö” is 3; give 4."
