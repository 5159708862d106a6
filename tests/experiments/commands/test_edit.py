"""`scorefield edit`, `interpolate` and `likelihood`: what they write, what they say, and what they refuse."""

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion.likelihood import Adaptive
from experiments.evaluation.likelihood import TOLERANCE
from experiments.interface.run import load
from experiments.pictures.edits import DIGEST
from experiments.pictures.files import read_provenance
from experiments.pictures.films import read_gif_provenance
from experiments.sampling import editing
from samplers import box_downsampling

KEPT = Path(__file__).parents[1] / "runs" / "kept"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with pictures of 8 × 8, and a mask."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{name}.png")
    (folder / "even").mkdir()
    blocks = np.kron([[40, 120], [200, 90]], np.ones((4, 4))) + np.where(np.indices((8, 8)).sum(0) % 2, 20, -20)
    Image.fromarray(blocks.astype(np.uint8)).save(folder / "even" / "c.png")  # blocks whose means are whole
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def pixels(path):
    return np.asarray(Image.open(path))


QUICK = ("--sampler", "ddim", "--steps", "3")


def test_a_masked_picture_is_completed_as_in_python(conditional_run, run_command, given, tmp_path):
    flags = ("--image", given / "a.png", given / "b.png", "--mask", given / "mask.png", "--resamplings", "2", *QUICK)
    command = ("edit", "--run", conditional_run, *flags, "--seeds", "4,7", "--outdir", tmp_path)
    outcome = run_command(*command, "--json")
    assert outcome.status == 0, outcome.err
    told = outcome.value
    assert [Path(path).name for path in told["files"]] == [
        *("a-000004.png", "a-000007.png", "b-000004.png", "b-000007.png", "strip.png")
    ]
    images = np.stack([pixels(given / f"{name}.png")[..., None] for name in "aabb"])
    known = pixels(given / "mask.png") == 0
    made = load(conditional_run).inpaint(images, known, seeds=[4, 7, 4, 7], sampler="ddim", steps=3, resamplings=2)
    np.testing.assert_array_equal(np.stack([pixels(path)[..., None] for path in told["files"][:4]]), made)
    assert [answer["consistency_rms"] for answer in told["answers"]] == [0.0] * 4
    said = read_provenance(tmp_path / "b-000007.png")
    assert (said["method"], said["resamplings"], said["seed"]) == ("repaint", 2, 7)
    assert read_provenance(tmp_path / "strip.png")[DIGEST] == said[DIGEST]
    assert len(said["image_sha256"]) == 2
    # The same again is its own; another is not.
    again = run_command(*command)
    assert (again.status, again.out.splitlines()[0].split(": ")[-1]) == (0, "A u - y 0 levels RMS")
    other = run_command(*command, "--jump", "2")
    assert other.status == 2
    assert "of another command or of somebody else; give another --outdir" in other.err


@pytest.fixture
def drawn(monkeypatch):
    """The (picture, seed) of every answer that is drawn; as many batches as `drawn.left` says, before it is stopped."""

    class Drawn(list):
        left = 10**9

    made, batch = Drawn(), editing._batch

    def counted(model, solver, task, rows, ids, *rest):
        if made.left == 0:
            raise KeyboardInterrupt
        made.left -= 1
        made.extend(zip(rows.tolist(), ids.tolist(), strict=True))
        return batch(model, solver, task, rows, ids, *rest)

    monkeypatch.setattr(editing, "_batch", counted)
    return made


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_drawn_before_a_stop_is_written_and_not_drawn_again(
    conditional_run, run_command, given, tmp_path, drawn
):
    flags = ("--image", given / "even" / "c.png", given / "a.png", "--super-resolve", "4", "--simulate", *QUICK)
    command = ("edit", "--run", conditional_run, *flags, "--seeds", "3,0-1", "--class", "all", "--batch", "2", "--json")
    whole = run_command(*command, "--outdir", tmp_path / "whole")
    assert whole.status == 0, whole.err
    every = [(picture, seed) for seed in (3, 0, 1) for picture in (0, 1)]
    assert drawn == every
    told = [(Path(answer["image"]).stem, answer["seed"]) for answer in whole.value["answers"]]
    assert told == [(name, seed) for name in ("c", "a") for seed in (3, 0, 1)]

    drawn.clear()
    drawn.left = 1
    stopped, parts = [*command, "--outdir", tmp_path / "parts"], tmp_path / "parts"
    assert run_command(*stopped).status == 130
    assert sorted(contents(parts)) == ["a-000003.png", "c-000003.png"]
    before = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    drawn.left = 10
    again = run_command(*stopped)
    assert again.status == 0, again.err
    assert drawn == every  # each once
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(parts) == contents(tmp_path / "whole")
    assert (again.value["already_there"], whole.value["already_there"]) == (2, 0)
    assert again.value["nfe"] == whole.value["nfe"]
    for ours, theirs in zip(again.value["answers"], whole.value["answers"], strict=True):
        assert Path(ours.pop("file")).name == Path(theirs.pop("file")).name
        assert ours == theirs
        assert {"consistency_rms", "consistency_over_noise", "distance_rms"} < ours.keys()

    # All is there; then one is missing; then there are more seeds.
    (parts / "strip.png").unlink()
    drawn.clear()
    said = run_command(*stopped[:-3], *stopped[-2:])
    assert said.out.splitlines()[-1].startswith("6 answers, 3 network calls each, 6 of them already there: ")
    assert (drawn, contents(parts)) == ([], contents(tmp_path / "whole"))
    (parts / "a-000001.png").unlink()
    assert run_command(*stopped).status == 0
    assert (set(drawn), contents(parts)) == ({(0, 1), (1, 1)}, contents(tmp_path / "whole"))
    drawn.clear()
    more = run_command(*stopped, "--seeds", "3,0-2")
    assert (more.value["already_there"], drawn, len(more.value["files"])) == (6, [(0, 2), (1, 2)], 9)
    kept = {**contents(tmp_path / "whole"), "strip.png": contents(parts)["strip.png"]}
    assert contents(parts).items() > kept.items()
    assert len(read_provenance(parts / "strip.png")["answers"]) == 8


def test_a_stop_tells_how_many_are_written(conditional_run, run_command, given, tmp_path, drawn, monkeypatch):
    words = []
    monkeypatch.setattr("experiments.commands.edit.tell_written", words.append)
    command = ("edit", "--run", conditional_run, "--image", given / "a.png", "--strength", "0.5", *QUICK)
    command = (*command, "--seeds", "0-4", "--batch", "2", "--outdir", tmp_path)
    drawn.left = 2
    assert run_command(*command).status == 130
    assert run_command(*command).status == 130
    assert [words[0](2), words[1](0), words[1](1), words[1](2)] == [
        *("2 of 5 answers are written", "4 of 5 answers are written"),
        *("5 of 5 answers are written", "5 of 5 answers are written"),  # and their strip
    ]


@pytest.mark.parametrize("name", ["a-000001.png", "strip.png"])
def test_what_somebody_else_has_put_there_stays(conditional_run, run_command, given, tmp_path, drawn, name):
    (tmp_path / name).write_text("theirs")
    flags = ("--image", given / "a.png", "--strength", "0.5", *QUICK, "--seeds", "0-1", "--outdir", tmp_path)
    outcome = run_command("edit", "--run", conditional_run, *flags)
    assert (outcome.status, outcome.err.count("\n"), drawn) == (2, 1, [])
    assert f"{name} is there, and of another command or of somebody else; give another --outdir" in outcome.err
    assert contents(tmp_path) == {name: b"theirs"}


def test_a_folder_is_of_one_edit_and_not_of_what_is_edited(conditional_run, run_command, given, tmp_path, drawn):
    """So that a strip and a set of answers are of one command, which goes on where it stopped."""
    edit = ("edit", "--run", conditional_run, "--strength", "0.5", *QUICK, "--outdir", tmp_path)
    assert run_command(*edit, "--image", given / "a.png", "--seeds", "0").status == 0
    (tmp_path / "strip.png").unlink()  # as of one that was stopped
    outcome = run_command(*edit, "--image", given / "even" / "c.png", "--seeds", "0")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "a-000000.png is an answer to another command; give another --outdir, or move it away" in outcome.err
    assert run_command(*edit, "--image", given / "a.png", "--seeds", "0-1").status == 0
    outcome = run_command(*edit[:-1], given, "--image", given / "a.png", "--seeds", "0")
    assert (outcome.status, "holds the pictures that are edited; give another" in outcome.err) == (2, True)


def test_a_smaller_picture_and_a_matrix_are_measured_in_levels(conditional_run, run_command, given, tmp_path):
    """--super-resolve of a picture that was measured here, and the same means by a matrix of one's own."""
    common = ("--seeds", "0,1", "--class", "3", "--guidance", "1.5", *QUICK, "--json")
    small = run_command(
        *("edit", "--run", conditional_run, "--image", given / "even" / "c.png", "--super-resolve", "4", "--simulate"),
        *(*common, "--outdir", tmp_path / "small"),
    )
    assert small.status == 0, small.err
    whole = pixels(given / "even" / "c.png").astype(float)
    means = whole.reshape(2, 4, 2, 4).mean((1, 3))
    matrix = np.asarray(box_downsampling(8, 8, 4)(jnp.eye(64).reshape(64, 8, 8, 1))).reshape(64, 4).T
    np.savez(tmp_path / "own.npz", matrix=matrix, observed=means.reshape(-1))
    own = run_command(
        *("edit", "--run", conditional_run, "--operator", tmp_path / "own.npz", *common, "--outdir", tmp_path / "own")
    )
    assert own.status == 0, own.err
    for outcome, stem in ((small, "small/c"), (own, "own/own")):
        for answer in outcome.value["answers"]:
            made = pixels(answer["file"]).astype(float)
            off = np.sqrt(np.mean((made.reshape(2, 4, 2, 4).mean((1, 3)) - means) ** 2))
            assert answer["consistency_rms"] == pytest.approx(off, abs=1e-3)
            assert answer["consistency_over_noise"] == pytest.approx(off * np.sqrt(12), abs=4e-3)
            assert str(Path(answer["file"])).startswith(str(tmp_path / stem))
    made = pixels(small.value["files"][0]).astype(float)
    assert small.value["answers"][0]["distance_rms"] == pytest.approx(np.sqrt(np.mean((made - whole) ** 2)), rel=1e-5)
    pair = [pixels(outcome.value["files"][0]).astype(int) for outcome in (small, own)]
    assert np.max(np.abs(pair[0] - pair[1])) <= 1


def test_a_picture_is_drawn_anew(conditional_run, run_command, given, tmp_path):
    made = run_command(
        *("edit", "--run", conditional_run, "--image", given, "--strength", "0.4", "--sampler", "ddim", "--steps", "5"),
        *("--seeds", "2", "--resize", "--outdir", tmp_path),
    )
    assert made.status == 0, made.err
    assert made.out.startswith("3 answers, 3 network calls each")
    images = np.stack([pixels(given / f"{name}.png")[..., None] for name in ("a", "b", "mask")])
    theirs = load(conditional_run).redraw(images, 0.4, seeds=[2, 2, 2], sampler="ddim", steps=5)
    np.testing.assert_array_equal(pixels(tmp_path / "mask-000002.png"), theirs[2, ..., 0])


def test_the_way_between_two_pictures_is_a_strip_and_a_film(tiny_run, run_command, given, tmp_path):
    flags = ("--images", given / "a.png", given / "b.png", "--frames", "4", "--outdir", tmp_path, "--json")
    outcome = run_command("interpolate", "--run", tiny_run, *flags)
    assert outcome.status == 0, outcome.err
    told = outcome.value
    assert (told["chain_steps"], told["between"], len(told["round_trip_rms"])) == (20, "slerp", 2)
    with Image.open(tmp_path / "film.gif") as film:
        assert (len(list(ImageSequence.Iterator(film))), film.info["loop"]) == (6, 0)
    assert read_gif_provenance(tmp_path / "film.gif")["image_sha256"] == told["image_sha256"]
    assert read_provenance(tmp_path / "strip.png")[DIGEST] == read_gif_provenance(tmp_path / "film.gif")[DIGEST]
    assert run_command("interpolate", "--run", tiny_run, *flags[:-1]).status == 0
    other = run_command("interpolate", "--run", tiny_run, *flags, "--linear")
    assert "film.gif is there" in other.err or "strip.png is there" in other.err


def test_likelihoods_are_those_of_the_run_in_python(conditional_run, run_command, tmp_path):
    flags = ("--limit", "5", "--draws", "1", "--dequantisation", "uniform", "--out", tmp_path / "x.csv")
    outcome = run_command("likelihood", "--run", conditional_run, *flags, "--probes", "0")
    assert outcome.status == 0, outcome.err
    with open(tmp_path / "x.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    rows, labels = ([int(line[name]) for line in lines] for name in ("index", "class"))
    run = load(conditional_run)
    held_out = run.data()[1]
    assert held_out.labels[rows].tolist() == labels
    told = [float(line["uniform_nats"]) for line in lines]
    some, solver = slice(max(rows) + 1), Adaptive(rtol=TOLERANCE, atol=TOLERANCE)
    plain = run.log_likelihood(held_out.images[some], labels=held_out.labels[some], solver=solver)
    np.testing.assert_allclose(told, plain[rows], rtol=1e-4)
    assert f"{np.mean(told):.6g} ± " in outcome.out


REFUSED = [
    ((), "it is not said what is known; give one of --mask, --super-resolve, --deblur, --strength and --operator"),
    (("--mask", "m.png", "--deblur", "1"), "--mask and --deblur are given; give one of"),
    (("--deblur", "1", "--method", "repaint"), "--method repaint goes with --mask, and not with --deblur"),
    (("--strength", "0.5", "--method", "pigdm"), "--method pigdm goes with --mask, and not with --strength"),
    (("--strength", "0.5", "--noise", "1"), "--noise is that of a measurement"),
    (("--mask", "m.png", "--simulate"), "--simulate measures a picture"),
    (("--deblur", "1", "--noise", "-1"), "--noise is -1; give a standard deviation"),
    (("--mask", "m.png", "--resamplings", "0"), "--resamplings is 0; give at least 1"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_flags_that_do_not_go_together_are_refused(run_command, flags, words):
    outcome = run_command("edit", "--run", "x", "--sampler", "heun", "--image", "a.png", *flags)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_measured(run_command, given):
    outcome = run_command("likelihood", "--run", "x", "--out", given / "a.png" / "x.csv")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "a.png cannot be written (Not a directory)" in outcome.err


ONCE_LOADED = [
    (("edit", "--image", "a.png", "--strength", "2"), "--strength is 2; give a part"),
    (("edit", "--image", "a.png", "--deblur", "0"), "--deblur is 0.0; give the width"),
    (("edit", "--image", "a.png", "--super-resolve", "3"), "--super-resolve is 3, and the run's images have 8×8"),
    (("edit", "--image", "a.png", "--super-resolve", "4"), "a.png has 8×8 pixels, height by width, and 2×2 are"),
    (("edit", "--strength", "0.5"), "--image is missing; give a picture"),
    (("edit", "--image", "a.png", "--mask", "mask.png", "--jump", "99"), "--jump is 99, and there are"),
    (("edit", "--image", "a.png", "--mask", "mask.png", "--noise", "1"), "--noise goes with --method pigdm"),
    (("edit", "--operator", "a.png"), "a.png is no npz file of numbers; save one by np.savez"),
    (("edit", "--operator", "few.npz"), "matrix in few.npz is float64 (2, 3), and the run's images have 8×8×1 = 64"),
    (("edit", "--operator", "none.npz"), "none.npz holds other; save the operator under the name matrix"),
    (("edit", "--operator", "bare.npz"), "--operator needs what was measured: save it in bare.npz as observed (m,)"),
    (("edit", "--operator", "nan.npz"), "matrix in nan.npz holds numbers that are not finite"),
    (("edit", "--operator", "noise.npz"), "noise_std in noise.npz is -1; save one number of levels, 0 or more"),
    (("edit", "--operator", "noises.npz"), "noise_std in noises.npz has shape (2,); save one number of levels"),
    (("edit", "--operator", "named.npz"), "named.npz holds noise, which is not known; name it matrix, observed or"),
    (("edit", "--operator", "odd.npz"), "observed in odd.npz has shape (3,), and the matrix 2 rows"),
    (("interpolate", "--seeds", "3"), "--seeds has 1; give two, such as --seeds 3 8"),
    (("interpolate",), "give --images A B or --seeds A B"),
    (("interpolate", "--seeds", "3", "4", "--frames", "1"), "--frames is 1; give at least 2"),
    (("interpolate", "--seeds", "3", "4", "--class", "1,2"), "--class is 1,2, and all frames have one class"),
    (("likelihood", "--draws", "0"), "--draws is 0; give at least 1"),
    (("likelihood", "--class", "all"), "--class is all; give one class for all images"),
]


@pytest.mark.parametrize(("flags", "words"), ONCE_LOADED, ids=[words[:40] for _, words in ONCE_LOADED])
def test_what_does_not_fit_the_run_is_refused_in_a_sentence(
    conditional_run, run_command, given, flags, words, monkeypatch
):
    monkeypatch.chdir(given)
    for name, arrays in {
        "few": {"matrix": np.ones((2, 3))},
        "none": {"other": np.ones(3)},
        "bare": {"matrix": np.ones((2, 64))},
        "odd": {"matrix": np.ones((2, 64)), "observed": np.ones(3)},
        "nan": {"matrix": np.full((2, 64), np.nan), "observed": np.ones(2)},
        "noise": {"matrix": np.ones((2, 64)), "observed": np.ones(2), "noise_std": -1},
        "noises": {"matrix": np.ones((2, 64)), "observed": np.ones(2), "noise_std": np.ones(2)},
        "named": {"matrix": np.ones((2, 64)), "observed": np.ones(2), "noise": 1.0},
    }.items():
        np.savez(given / f"{name}.npz", **arrays)
    outcome = run_command(flags[0], "--run", conditional_run, *flags[1:])
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert words in outcome.err


@pytest.mark.parametrize(
    ("kept", "flags", "words"),
    [
        ("energy", ("likelihood",), "this run has no likelihood, for its denoiser is not told the noise level"),
        ("energy", ("interpolate", "--seeds", "1", "2"), "this run has no flow to latents"),
        ("generator", ("likelihood",), "a generator of one step has no likelihood"),
        ("points", ("edit", "--strength", "0.5"), "this run makes points, and what is asked for is of pictures"),
    ],
)
def test_runs_that_cannot_are_refused_and_why(run_command, kept, flags, words):
    outcome = run_command(flags[0], "--run", KEPT / kept, *flags[1:])
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert words in outcome.err


@pytest.mark.parametrize("method", ["repaint", "pigdm"])
def test_the_noise_of_pfgmpp_is_not_gaussian(run_command, given, tmp_path, method):
    flags = ("--image", given / "a.png", "--mask", given / "mask.png", "--method", method, "--outdir", tmp_path)
    outcome = run_command("edit", "--run", KEPT / "pfgmpp", *flags)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "exists for Gaussian noise only" in outcome.err


def test_a_table_of_likelihoods_takes_no_place_and_an_only_draw_has_no_error(conditional_run, run_command, tmp_path):
    table = tmp_path / "x.csv"
    table.write_text("mine")
    flags = ("--run", conditional_run, "--limit", "1", "--draws", "1", "--dequantisation", "uniform", "--out", table)
    outcome = run_command("likelihood", *flags)
    assert outcome.status == 2
    assert "is there, and of another command or of somebody else" in outcome.err
    assert table.read_text() == "mine"
    table.unlink()
    for _ in range(2):  # its own is written anew
        outcome = run_command("likelihood", *flags)
        assert outcome.status == 0, outcome.err
        assert "nan" not in outcome.out
        assert "±" not in outcome.out
        with open(table, newline="") as file:
            (line,) = csv.DictReader(file)
        assert line["uniform_nats_error"] == line["uniform_bits_per_dim_error"] == ""


@pytest.mark.parametrize("seed", ["-1", str(2**31), "99999999999999999999"])
@pytest.mark.parametrize("command", [("likelihood",), ("work-precision",), ("grid", "--sampler", "ddim")])
def test_a_seed_that_a_key_would_cut_is_refused(conditional_run, run_command, command, seed):
    outcome = run_command(command[0], "--run", conditional_run, *command[1:], f"--seed={seed}")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"--seed is {seed}; give 0 or more, and below 2^31." in outcome.err
