"""`scorefield sample --num-processes`: the seeds of one command, shared by several, give what it gives alone."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.commands.processes import share_of
from experiments.errors import UsageError
from experiments.sampling.share import ALONE, Share

RANK, SIZE = "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"


@pytest.mark.parametrize(
    ("given", "environment", "share"),
    [
        ((None, None), {}, ALONE),
        ((None, None), {RANK: "1", SIZE: "2"}, ALONE),  # tasks that have seeds of their own
        ((1, None), {}, Share(0, 1)),
        ((4, 2), {}, Share(2, 4)),
        ((4, 2), {RANK: "1", SIZE: "8"}, Share(2, 4)),
        ((2, None), {RANK: "1", SIZE: "2"}, Share(1, 2)),
        ((3, None), {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, Share(2, 3)),
    ],
)
def test_a_process_knows_its_number_by_a_flag_or_its_environment(given, environment, share, monkeypatch):
    for name in (RANK, SIZE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert share_of(*given) == share


@pytest.mark.parametrize(
    ("given", "environment", "sentence"),
    [
        ((None, 1), {}, "--process-id 1 goes with --num-processes"),
        ((0, None), {}, "--num-processes is 0; give at least 1"),
        ((2, 2), {}, "--process-id is 2 of --num-processes 2; they count from 0"),
        ((2, -1), {}, "--process-id is -1 of"),
        ((2, None), {}, "--num-processes 2 needs --process-id, from 0 to 1"),
        ((2, None), {RANK: "3", SIZE: "4"}, "--num-processes is 2, and SLURM_STEP_NUM_TASKS says 4"),
    ],
)
def test_numbers_that_do_not_belong_together_are_refused(given, environment, sentence, monkeypatch):
    for name in (RANK, SIZE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=sentence):
        share_of(*given)


@pytest.mark.parametrize("form", ["npz", "png"])
def test_two_processes_give_the_samples_of_one(form, run_command, conditional_run, tmp_path):
    """To the bit: they are the same batches. The last, of process 1, is filled up."""
    told = ["sample", "--run", conditional_run, "--seeds", "3-9", "--batch", "3", "--steps", "2", "--format", form]
    assert run_command(*told, "--outdir", tmp_path / "alone").status == 0
    shares, folder = [], tmp_path / "together"
    for index in (1, 0):
        flags = ("--num-processes", "2", "--process-id", index, "--outdir", folder, "--json")
        done = run_command(*told, *flags)
        assert done.status == 0, done.err
        shares.append(done.value)
    assert [share["samples"] for share in shares] == [1, 6]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()
    }
    if form == "png":
        assert [len(share["files"]) for share in shares] == [1, 6]
        again = run_command(*told, *flags).value
        assert again["already_there"] == 6
    else:
        assert (shares[0]["missing_parts"], shares[0]["files"]) == ([0], [])
        assert (shares[1]["missing_parts"], shares[1]["files"]) == ([], [str(folder / "samples.npz")])
        assert len(np.load(folder / "samples.npz")["images"]) == 7


def test_what_each_process_says_in_a_line(run_command, tiny_run, tmp_path):
    told = ("sample", "--run", tiny_run, "--seeds", "0-2", "--outdir", tmp_path, "--num-processes", "4")
    said = [run_command(*told, "--process-id", index).out for index in (3, 1, 2, 0)]
    assert said[0].startswith("process 3 of 4: 0 of 3 samples: the file of all waits for process 0, 1, 2, ")
    assert said[1].startswith("process 1 of 4: 1 of 3 samples, 4 network calls each, ")
    assert "the file of all waits for process 0, 2, " in said[1]
    assert said[3].endswith(f": {tmp_path / 'samples.png'}\n")
    again = run_command(*told, "--process-id", "3").out
    assert again == f"process 3 of 4: 0 of 3 samples: {tmp_path / 'samples.png'}\n"
    wrong = run_command("sample", "--run", tiny_run, "--num-processes", "2", "--coordinator", "localhost:1")
    assert (wrong.status, wrong.err.count("\n")) == (2, 1)
    assert "--coordinator localhost:1 is for training: these processes meet in --outdir" in wrong.err


def test_two_processes_at_once_share_the_seeds(tiny_run, tmp_path):
    command = [sys.executable, "-m", "experiments.cli", "sample", "--run", str(tiny_run), "--seeds", "0-5", "--json"]
    started = [
        subprocess.Popen(
            [*command, "--outdir", str(tmp_path), "--num-processes", "2", "--process-id", str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    ended = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    reports = [json.loads(out) for out, _ in ended]
    assert [report["samples"] for report in reports] == [3, 3]
    assert any(report["files"] == [str(tmp_path / "samples.png")] for report in reports)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
