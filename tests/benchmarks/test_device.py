"""The benchmark of a device goes on whatever a part does, and its table says of every part what became of it."""

import json
import sys

import pytest

from benchmarks import device, device_parts, startup
from experiments import presets


@pytest.fixture
def scripted(monkeypatch):
    """Parts that do what their names say instead of measuring."""

    def pretend(**programs):
        real = device.subprocess.run

        def run(words, **options):
            return real([sys.executable, "-c", programs[words[3]]], **options)

        monkeypatch.setattr(device.subprocess, "run", run)
        monkeypatch.setattr(device, "PARTS", dict.fromkeys(programs, 2))

    return pretend


ROW = 'print(\'device: "a chip"\\nrow: {"what": "one | two", "images/s": 1234.5, "ms": 0.25}\', flush=True)\n'


def test_a_part_that_fails_costs_nothing_but_itself(scripted, tmp_path):
    slow = "import time\ntime.sleep(60)"
    scripted(
        good=ROW, bad=f"{ROW}raise ValueError('no | such thing')", slow=ROW + slow, absent="print('failed: \"n/a\"')"
    )
    report = device.main(["--out", str(tmp_path)])
    assert report == json.loads((tmp_path / "device.json").read_text())
    parts = report["parts"]
    assert [len(parts[name]["rows"]) for name in ("good", "bad", "slow", "absent")] == [1, 1, 1, 0]
    assert "failed" not in parts["good"]
    assert parts["bad"]["failed"] == "ValueError: no | such thing"
    assert "Traceback" in parts["bad"]["stderr"]
    assert parts["slow"]["failed"] == "not done within 2 s"
    assert parts["absent"]["failed"] == "n/a"
    said = (tmp_path / "device.md").read_text()
    assert report["date"] in said.splitlines()[0]
    assert "a chip" in said.splitlines()[0]
    assert "--out" in said.splitlines()[0]
    assert "images/s 1,234, ms 0.25" in said
    assert all(line.count("|") == 4 for line in said.splitlines()[2:])


def test_what_there_is_no_time_for_is_said(scripted, tmp_path):
    scripted(good=ROW)
    report = device.main(["--out", str(tmp_path), "--minutes", "0"])
    assert report["parts"]["good"]["failed"] == "not measured: the time was over"
    assert "the time was over" in (tmp_path / "device.md").read_text()


def test_every_part_is_one_that_can_be_measured():
    kinds = {*device_parts.WITHOUT_A_NAME, *device_parts.OF_A_NAME}
    for name in device.PARTS:
        assert name.partition(" ")[0] in kinds
    assert sum(device.PARTS.values()) >= 600  # the time is used
    with pytest.raises(device_parts.Absent, match="not in this version"):
        device_parts.configuration("no-such-preset", toy=False)


@pytest.mark.parametrize("part", [name for name in device.PARTS if name.startswith("train ")])
def test_every_preset_that_is_trained_has_a_toy(part):
    """A field of the real network, such as the block from which class tokens take part, may not fit the small one."""
    toy = device_parts.configuration(part.removeprefix("train "), toy=True)
    assert toy.training.batch_size == 4


def test_a_toy_is_the_preset_but_for_its_size():
    toy, real = device_parts.configuration("unet-32", toy=True), presets.load("cifar10-ddpmpp-edm")
    assert (toy.schedule, toy.weighting, toy.times) == (real.schedule, real.weighting, real.times)
    assert toy.training.batch_size == 4


@pytest.mark.parametrize("part", ["ceiling", "attention", "dispatch"])
def test_a_part_measures_positive_numbers(part, monkeypatch):
    monkeypatch.setattr(device_parts, "_compiling", [])
    rows = list(device_parts.rows(part, toy=True))
    assert rows
    for row in rows:
        assert all(value > 0 for name, value in row.items() if name not in ("what", "not available", "compilation s"))


def test_training_and_sampling_are_measured(monkeypatch):
    trained, sampled = device_parts.rows("train transformer-32", toy=True)
    assert trained["images/s"] > 0
    assert 0 < trained["share of the ceiling"] < 1
    assert sampled["images/s"] > 0


def test_the_start_of_an_older_checkout_is_measured_by_its_own_module(tmp_path):
    (tmp_path / "old").mkdir()
    old = startup.Checkout(tmp_path / "old", tmp_path / "a", {})
    new = startup.Checkout(startup.HERE, tmp_path / "b", {})
    assert old.command("train")[1:] == ["-m", "experiments.cli", "train"]
    assert new.command("train")[1:] == ["-m", "scorefield", "train"]
    assert set(startup.checkouts(None, tmp_path)) == {"warm", "without a cache"}
