import dataclasses
import os
import subprocess
import sys

import pytest

from experiments import errors
from experiments.data import DataConfig, open_source
from experiments.errors import UsageError, did_you_mean


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", ""),
        ("size", 0),
        ("size", -3),
        ("crop", "left"),
        ("channels", 2),
        ("held_out", 1.0),
        ("held_out", -0.1),
        ("held_out", float("nan")),
        ("seed", -1),
        ("memory_gib", 0.0),
        ("rules", 3),
        ("memory_gib", float("nan")),
    ],
)
def test_every_bad_option_is_named_with_its_value(field, value):
    with pytest.raises(UsageError) as caught:
        open_source(DataConfig(**{field: value}))
    sentence = str(caught.value)
    assert "--data." + field.replace("_", "-") in sentence
    assert str(value) in sentence
    assert sentence.endswith(".")
    assert ";" in sentence
    assert caught.value.exit_status == 2


def test_the_configuration_is_frozen_and_hashable():
    config = DataConfig(source="digits", size=16)
    assert hash(config) == hash(DataConfig(size=16))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.size = 8  # pyright: ignore[reportAttributeAccessIssue]


def test_exit_statuses_are_distinct_and_as_documented():
    classes = ["UsageError", "DataError", "CheckpointError", "DivergedError", "BusyError"]
    assert [getattr(errors, name).exit_status for name in classes] == [2, 3, 4, 5, 6]
    assert all(issubclass(getattr(errors, name), errors.ScorefieldError) for name in classes)


def test_suggestions_are_near_or_absent():
    assert "'folder'" in did_you_mean("Foldr", ["folder", "zip"])
    assert did_you_mean("banana", ["folder", "zip"]) == ""


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("dgits", ["'digits'"]),
        ("Folder:x", ["'folder'"]),
        ("https://example.org/x", ["idx:DIR", "hf:NAME"]),
        ("idx:", ["idx:DIR"]),
        ("npz", ["npz:FILE"]),
        ("digits:x", ["alone"]),
        ("folder:/no/such", ["/no/such"]),
        ("npz:no/such.npz", ["no/such.npz"]),
    ],
)
def test_a_uri_that_leads_nowhere_is_refused_with_a_way_out(refused, uri, words):
    refused(uri, uri.partition(":")[0], *words)


def test_a_bare_path_is_answered_with_the_uri_to_write(refused, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "a.zip").touch()
    refused(str(tmp_path), f"idx:{tmp_path}")
    refused(str(tmp_path / "pictures"), f"folder:{tmp_path / 'pictures'}")
    refused(str(tmp_path / "a.zip"), f"zip:{tmp_path / 'a.zip'}")


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_refused(refused, tmp_path):
    archive = tmp_path / "a.zip"
    archive.touch()
    refused(f"folder:{archive}", archive, f"zip:{archive}")
    refused(f"idx:{archive}", archive)
    refused(f"zip:{tmp_path}", tmp_path, f"folder:{tmp_path}")


def test_a_home_directory_is_expanded_after_the_colon(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    refused("folder:~/faces", tmp_path / "faces")


def test_a_library_that_is_missing_is_named_with_its_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refused("digits", "scikit-learn", "scorefield[train]")


def test_options_may_come_as_keywords_or_as_a_configuration():
    wide = open_source("digits", size=16)
    assert wide.event_shape == (16, 16, 1)
    assert open_source(DataConfig(size=16)).fingerprint == wide.fingerprint


def test_importing_the_package_imports_no_heavy_library():
    heavy = ["jax", "PIL", "sklearn", "scipy", "grain", "datasets", "tyro", "flax"]
    program = f"import sys, experiments.data; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert answer.stdout.strip() == "[]"
