"""Seeds that are kept as ranges are a list of numbers in all but their memory."""

import numpy as np
import pytest

from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError
from experiments.sampling.drawing import starts
from experiments.sampling.seeds import Seeds

RANGES = [range(5, 9), range(3), range(20, 21), range(9, 12)]
LIST = [5, 6, 7, 8, 0, 1, 2, 20, 9, 10, 11]


def test_they_are_the_list_of_their_numbers():
    seeds = Seeds(RANGES)
    assert list(seeds) == LIST
    assert len(seeds) == len(LIST)
    assert [seeds[i] for i in range(-11, 11)] == LIST + LIST
    assert [n for n in range(-1, 25) if n in seeds] == sorted(LIST)
    assert "5" not in seeds
    np.testing.assert_array_equal(np.asarray(seeds), LIST)
    for low in range(-12, 13):
        for high in range(-12, 13):
            assert list(seeds[low:high]) == LIST[low:high]
    assert list(seeds[::-2]) == LIST[::-2]
    for place in (11, -12):
        with pytest.raises(IndexError):
            seeds[place]


def test_places_are_where_the_numbers_are():
    seeds = Seeds(RANGES)
    assert list(seeds.places([20, 4, 5, 11, 2, 99, 9])) == [7, 0, 10, 6, 8]
    assert list(Seeds().places([0])) == []


def test_each_is_spread_to_several_in_its_place():
    assert list(Seeds(RANGES).spread(3)) == [3 * seed + i for seed in LIST for i in range(3)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 11, 12])
@pytest.mark.parametrize("there", [[], LIST, [5, 6, 7, 8], [0, 1, 2, 20, 77], [10, 11], [11], [6, 5, 20, 9, 10, 11]])
def test_batches_that_are_there_are_left_out(batch, there):
    wanted = [i for i in range(0, len(LIST), batch) if not set(LIST[i : i + batch]) <= set(there)]
    for seeds in (LIST, Seeds(RANGES)):
        found = starts(seeds, batch, there)
        assert (list(found), len(found)) == (wanted, len(wanted))


def test_numbers_that_follow_one_another_are_a_range():
    seeds = Seeds.of([7, 3, 4, 5, 9, 8])
    assert list(seeds) == [3, 4, 5, 7, 8, 9]
    assert seeds._ranges == (range(3, 6), range(7, 10))
    assert (len(Seeds()), list(Seeds()), np.asarray(Seeds()).size, 0 in Seeds()) == (0, [], 0, False)


def test_two_thousand_million_are_no_list():
    seeds = parse_seeds("0-2000000000")
    assert (len(seeds), seeds[-1], 2_000_000_000 in seeds) == (2_000_000_001, 2_000_000_000, True)
    assert list(seeds[1_999_999_936 : 1_999_999_936 + 64])[-2:] == [1_999_999_998, 1_999_999_999]


@pytest.mark.parametrize("text", ["1,1", "0-5,3", "3,0-5", "0-2000000000,77"])
def test_a_seed_that_is_named_twice_is_refused(text):
    with pytest.raises(UsageError, match="names a seed twice"):
        parse_seeds(text)
