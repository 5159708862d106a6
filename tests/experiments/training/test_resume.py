"""What a command is told when it is not that of the run in its folder."""

import dataclasses
from pathlib import Path

import pytest

from diffusion.networks.configs import MLPConfig
from experiments.config.file import save_config
from experiments.config.tree import Config
from experiments.errors import UsageError, refuse
from experiments.training import kept
from experiments.training.manifest import write_manifest
from experiments.training.resume import check_config, differences


def changed(**training):
    config = Config()
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **training))


def test_another_type_is_the_difference_and_not_its_fields(tmp_path):
    """A field that one network has and the other has not comes first in the alphabet, and says nothing."""
    before, after = Config(), dataclasses.replace(Config(), network=MLPConfig())
    assert differences(before, after) == [("network", "unet", "mlp")]
    save_config(before, tmp_path / "config.json")
    with pytest.raises(UsageError, match="holds a run with --network unet, and this command says mlp;"):
        check_config(after, tmp_path, has_checkpoints=True)


def test_further_fields_are_named_as_flags(tmp_path):
    save_config(Config(), tmp_path / "config.json")
    with pytest.raises(UsageError, match=r"--training.batch-size .* \(and training.seed differ too\)"):
        check_config(changed(batch_size=7, seed=3), tmp_path, has_checkpoints=True)


@pytest.mark.parametrize("seed", [2**32, 2**63, 99999999999999999999, -1])
def test_a_new_run_has_a_seed_of_its_own(seed, tmp_path):
    """From 2^32 on the first weights and the noise are those of a smaller seed; from 2^64 on JAX has none."""
    config = changed(seed=seed)

    def begin():
        refuse(config.training.refusals())
        check_config(config, tmp_path, has_checkpoints=False)

    with pytest.raises(UsageError, match=f"--training.seed is {seed}; give 0 to 4294967295"):
        begin()


def test_a_run_that_was_begun_with_such_a_seed_goes_on(tmp_path):
    config = changed(seed=2**40)
    save_config(config, tmp_path / "config.json")
    check_config(config, tmp_path, has_checkpoints=True)
    assert not any(refused for refused, _ in config.training.refusals())


def test_a_run_goes_on_by_what_it_was_trained_by_whatever_its_file_says(tmp_path, monkeypatch):
    """A digit of config.json that had changed once went on with another learning rate by --run, and said nothing."""
    said, folder = [], tmp_path / "checkpoints" / "00000010"
    monkeypatch.setattr(kept, "warn", said.append)
    folder.mkdir(parents=True)
    save_config(Config(), folder / "config.json")
    write_manifest(folder)
    save_config(Config(), tmp_path / "config.json")
    assert kept.run_config(tmp_path) == Config()
    assert said == []
    save_config(changed(seed=3), tmp_path / "config.json")
    assert kept.run_config(tmp_path) == Config()
    check_config(Config(), tmp_path, has_checkpoints=True)
    sentence = "config.json says --training.seed 3, and the run was trained with 0; the copy in"
    assert [sentence in line for line in said] == [True]  # though two have asked
    save_config(changed(steps=7), tmp_path / "config.json")
    assert kept.run_config(tmp_path, free=False) == changed(steps=7)
    assert len(said) == 1
    assert kept.run_config(tmp_path) == changed(steps=7)
    assert "config.json says --training.steps 7, which holds;" in said[1]
    (folder / "config.json").write_text("{}")  # no copy that is intact
    assert kept.run_config(tmp_path) == changed(steps=7)
    assert len(said) == 2


def test_a_configuration_that_is_gone_is_said_in_one_line_once(tmp_path, monkeypatch):
    said, folder = [], tmp_path / "run" / "checkpoints" / "00000010"
    monkeypatch.setattr(kept, "warn", said.append)
    folder.mkdir(parents=True)
    save_config(Config(), folder / "config.json")
    write_manifest(folder)
    monkeypatch.chdir(tmp_path)
    for place in (Path("run"), tmp_path / "run", Path("run")):
        assert kept.run_config(place) == Config()
    assert said == ["run/config.json does not exist; the copy in run/checkpoints/00000010/config.json is used."]
    (tmp_path / "run" / "config.json").write_text("{")
    assert kept.run_config(Path("run")) == Config()
    assert "is not valid JSON" in said[1]
    assert said[1].endswith("; the copy in run/checkpoints/00000010/config.json is used.")
    assert said[1].count(";") == 1


def test_a_longer_training_is_refused_with_the_reason(tmp_path):
    optimizer = dataclasses.replace(Config().optimizer, decay="cosine")
    before = dataclasses.replace(changed(steps=20), optimizer=optimizer)
    save_config(before, tmp_path / "config.json")
    with pytest.raises(
        UsageError,
        match=r"falls to its end \(--optimizer.decay cosine\), so that no step.*another --outdir with --init-from",
    ):
        check_config(dataclasses.replace(changed(steps=25), optimizer=optimizer), tmp_path, True)
    save_config(changed(steps=20), tmp_path / "config.json")
    check_config(changed(steps=25), tmp_path, True)
