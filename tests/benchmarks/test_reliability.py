"""The campaign of faults, in small: its files reach what reads them, and its judges see what is wrong."""

import gzip
import importlib
import io
import json
import random
import shutil
import struct
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks.reliability import configurations, damage, formats, memory, mutators
from benchmarks.reliability.rows import PREFIX, Row, refusal, table, untidy
from benchmarks.reliability.setting import unlike
from experiments.data import open_source
from experiments.errors import DataError, UsageError


def test_the_checksums_of_a_mutated_picture_are_those_of_its_chunks():
    different = set()
    for seed in range(60):
        whole, place = mutators.png(random.Random(seed)), 8
        while place < len(whole):
            (size,) = struct.unpack(">I", whole[place : place + 4])
            (crc,) = struct.unpack(">I", whole[place + 8 + size : place + 12 + size])
            assert crc == zlib.crc32(whole[place + 4 : place + 8 + size])
            place += 12 + size
        different.add(whole)
    assert len(different) == 60


@pytest.mark.parametrize("make", [mutators.archive, mutators.npz])
def test_the_checksums_of_a_mutated_archive_are_those_of_its_files(make):
    for seed in range(25):
        rng = random.Random(seed)
        whole = make(rng)
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            assert archive.testzip() is None
        changed = mutators.with_header(whole, rng)
        assert len(changed) == len(whole)


def test_the_checksum_of_a_mutated_idx_file_is_that_of_its_bytes():
    packed = [part for seed in range(40) for part in mutators.idx(random.Random(seed)) if part[:2] == b"\x1f\x8b"]
    assert len(packed) > 20
    for part in packed:
        gzip.decompress(part)  # which checks it


@pytest.mark.parametrize("kind", formats.KINDS)
def test_a_mutated_file_is_read_or_refused_in_a_line(kind, tmp_path, tiny_run):
    if kind == "checkpoint":
        shutil.copytree(tiny_run / "checkpoints" / "00000012", tmp_path / "00000060")
    fates = [formats.one(kind, tmp_path, seed) for seed in range(12 if kind == "checkpoint" else 40)]
    assert set(fates) <= {"read", "refused"}, fates
    assert kind == "checkpoint" or len(set(fates)) == 2  # what is drawn depends on the names of its files


def test_what_is_no_answer_is_seen(tmp_path, monkeypatch):
    def answer(error):
        def read(folder, rng):
            raise error

        monkeypatch.setitem(formats._READERS, "odd", read)
        return formats.one("odd", tmp_path, 0)

    assert answer(DataError("of a file")) == "refused"
    assert answer(KeyError("x")).startswith("a traceback: KeyError")


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that nobody has asked for."""
    (tmp_path / f"{configurations.CANARY}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "")
    yield
    sys.modules.pop(configurations.CANARY, None)


def test_hostile_configurations_are_refused_in_a_line(tiny_run, tmp_path, canary):
    good, path, fates = json.loads((tiny_run / "config.json").read_text()), tmp_path / "hostile.json", []
    for seed in range(12):
        path.write_text(json.dumps(mutators.values(good, random.Random(seed))))
        fates.append(configurations._told(["train", "--config", str(path), "--dry-run", "--outdir", "none"]))
    for plugins in ([configurations.CANARY], configurations.CANARY, [3]):
        path.write_text(json.dumps({**good, "plugins": plugins}))
        fates.append(configurations._told(["train", "--config", str(path), "--dry-run", "--outdir", "none"]))
    assert [wrong for _, wrong in fates if wrong] == []
    assert [fate for fate, _ in fates].count("refused") > 9


def test_a_module_that_is_imported_by_a_configuration_is_seen(canary):
    importlib.import_module(configurations.CANARY)
    _, wrong = configurations._told(["train", "--preset", "digits-ddpm", "--dry-run", "--outdir", "none"])
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{configurations.CANARY} was imported")


def test_hostile_flags_are_refused_in_a_line(canary):
    fates = []
    for seed in range(8):
        given = ["--preset", "digits-ddpm", *configurations._flags(random.Random(seed))]
        fates.append(configurations._told(["train", *given, "--dry-run", "--outdir", "none"]))
    assert [wrong for _, wrong in fates if wrong] == []
    assert "refused" in {fate for fate, _ in fates}


def test_files_that_promise_too_much_are_refused_at_once(tmp_path):
    for uri in memory.promises(tmp_path / "promises"):
        start = time.process_time()
        with pytest.raises(DataError):
            open_source(uri)
        assert time.process_time() - start < 5


READ = {name: damage.READINGS[name] for name in ("the newest", "the best", "the configuration", "the losses")}


def test_a_changed_byte_in_a_run_is_never_used_silently(tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    monkeypatch.setattr(damage, "READINGS", READ)
    newest = run / "checkpoints" / "00000012"
    names = ["config.json", "metrics.jsonl"]
    names += [str((newest / name).relative_to(run)) for name in ("checkpoint.json", "config.json", "SHA256SUMS")]
    names.append(str(next((newest / "state").rglob("d/*")).relative_to(run)))
    (run / "notes.txt").write_text("99")  # of which nobody reads
    names.append("notes.txt")
    row = Row("a changed digit", "", "")
    damage.each_file(run, [run / name for name in names], row, damage.digit, 1, random.Random(0))
    assert (row.trials, row.wrong) == (7, [])
    assert row.also.keys() > {"without effect"}


def test_silence_is_seen(tiny_run, tmp_path, monkeypatch):
    """A reader that takes whatever is there is found out."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    monkeypatch.setattr(damage, "READINGS", {"the newest": lambda run, say: (run / "config.json").read_text()})
    row = Row("a changed digit", "", "")
    damage.each_file(run, [run / "config.json"], row, damage.digit, 1, random.Random(0))
    assert row.wrong == ["config.json: the newest: used silently"]


def test_a_run_that_is_unlike_its_twin_is_seen(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "samples").mkdir(exist_ok=True)
    twin = shutil.copytree(run, tmp_path / "twin")
    for folder, level in ((run, 1), (twin, 2)):
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(folder / "samples" / "step-1.png")
    assert unlike(run, twin) == ["step-1.png is another"]
    shutil.copy(twin / "samples" / "step-1.png", run / "samples" / "step-1.png")
    assert unlike(run, twin) == []
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines.replace('"loss": ', '"loss": 1', 1))
    assert unlike(run, twin) == ["metrics.jsonl has other rows"]
    (run / "metrics.jsonl").write_text(lines)
    (run / ".config.json.0123456789abcdef.tmp").write_text("")
    assert unlike(run, twin) == ["left behind: .config.json.0123456789abcdef.tmp"]
    shutil.rmtree(run / "checkpoints" / "00000006")
    assert "checkpoints of steps [12], not [6, 12]" in unlike(run, twin)
    assert len(unlike(run, twin, steps=False)) == 1


def test_what_a_command_says_is_judged():
    line = PREFIX + "no."
    assert untidy("step 1\n") == refusal(f"step 1\n{line}\n") == refusal(f"{line}\n", alone=True) == []
    assert refusal(f"step 1\n{line}\n", alone=True) == ["a foreign line: step 1"]
    assert untidy("Traceback (most recent call last):\nValueError: x\n") == ["a traceback: ValueError: x"]
    assert untidy(PREFIX + "x" * 301)[0].startswith("320 characters")
    assert untidy(PREFIX + "x" * 300) == []
    for text in ("", "step 1\n", f"{line}\nmore\n", f"{line}\n{line}\n"):
        assert refusal(text) != []


def test_the_table_counts_what_went_right_and_how():
    row = Row("a fault", "it is refused", "`part`")
    row.judge("refused", [])
    row.judge("refused", [])
    row.judge("mended", ["it was not"])
    assert table([row]).splitlines()[-1] == "| a fault | it is refused | `part` | 2 of 3; 2 refused |"
    assert row.wrong == ["it was not"]
    assert UsageError.exit_status == 2
