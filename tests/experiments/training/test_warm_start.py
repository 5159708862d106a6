"""Runs that begin from the parameters of another: `train --init-from`."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.schedules import VP
from experiments.config.nodes import Generator
from experiments.errors import CheckpointError, UsageError
from experiments.interface.run import load
from experiments.interface.steps import training as steps_of
from experiments.runs.load import load_model
from experiments.runs.model import make_denoiser
from experiments.runs.provenance import origin
from experiments.training import loop
from experiments.training.checkpoint import load as load_checkpoint
from experiments.training.data import Facts, RunData
from experiments.training.warm_start import KEY, InitFrom, Origin, Source, following, recorded, require_kin
from tests.experiments.training.tiny_run import SHAPE, tiny_config, tiny_data


def begun(folder, source, config=None, data=None, **options):
    """Train from `source`, on one device."""
    data, devices = data or tiny_data(), tuple(jax.devices()[:1])
    init = InitFrom(source) if not isinstance(source, InitFrom) else source
    return loop.train(
        config or tiny_config(), folder, data=data, devices=devices, quiet=True, init_from=init, **options
    )


def arrays(run, step):
    return load_checkpoint(run / "checkpoints" / f"{step:08d}")[0]


def assert_same(before, after):
    jax.tree.map(np.testing.assert_array_equal, before, after)


pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def warm(straight, tmp_path_factory):
    """A run of twenty steps from the end of another."""
    folder = tmp_path_factory.mktemp("warm")
    begun(folder, straight)
    return folder


def test_step_0_has_the_very_same_denoiser(straight, warm):
    """And the averages, and the parameters, are those of the source's first average."""
    before, tree = arrays(straight, 20), arrays(warm, 0)
    for average in (tree["params"], tree["ema"]["0"], tree["ema"]["1"]):
        assert_same(before["ema"]["0"], average)
    assert int(tree["step"]) == 0
    x, t, labels = jax.random.normal(jax.random.key(0), (4, *SHAPE)), jnp.full(4, 1.5), jnp.arange(4)
    answers = [
        np.asarray(make_denoiser(load_model(place), labels)(x, t))
        for place in (straight, warm / "checkpoints" / "00000000")
    ]
    np.testing.assert_array_equal(*answers)
    for moments in jax.tree.leaves(tree["opt_state"]):
        assert not np.any(moments)  # the optimiser is new
    assert not np.array_equal(arrays(warm, 20)["params"]["out"]["kernel"], tree["params"]["out"]["kernel"])


def test_it_goes_on_bit_for_bit_from_its_own_checkpoints_when_the_source_is_gone(straight, warm, tmp_path):
    """Broken off before its first regular checkpoint, where it would otherwise have begun with random parameters."""
    source, outdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(straight, source)
    with pytest.raises(RuntimeError):  # nobody foresaw it, and so nothing is saved
        begun(outdir, source, data=tiny_data(fails_at=7, error=RuntimeError))
    assert [path.name for path in (outdir / "checkpoints").iterdir()] == ["00000000"]
    shutil.rmtree(source)
    loop.train(tiny_config(), outdir, data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True)
    assert_same(arrays(warm, 20), arrays(outdir, 20))
    noted = [recorded(outdir / "checkpoints" / name) for name in ("00000010", "00000020")]
    assert noted[0] == noted[1]
    assert noted[0].run == str(source)


def test_where_it_came_from_is_in_every_report(straight, warm):
    model = load_model(warm)
    told = origin(model)["init_from"]
    source = straight / "checkpoints" / "00000020"
    assert told["checkpoint"] == str(source)
    assert told["sha256"] == load_checkpoint(source)[1]
    assert (told["step"], told["parameters"], told["new"]) == (20, "average 0", ())
    assert told["carried"] == f"{len(jax.tree.leaves(model.params))} of {len(jax.tree.leaves(model.params))} arrays"
    assert len(model.origin.carried) == len(jax.tree.leaves(model.params))
    json.dumps(told)
    assert "init_from" not in origin(load_model(straight))


def test_raw_parameters_and_a_checkpoint_by_name(straight, tmp_path):
    begun(tmp_path / "raw", InitFrom(straight / "checkpoints" / "00000010", None), tiny_config(training={"steps": 1}))
    assert_same(arrays(straight, 10)["params"], arrays(tmp_path / "raw", 0)["ema"]["0"])
    with pytest.raises(UsageError, match=r"--init-ema 7 does not exist; .* has 2, counted from 0, and raw"):
        begun(tmp_path / "seventh", InitFrom(straight, 7))


def test_what_a_run_that_is_there_is_told(straight, warm, tmp_path):
    begun(warm, straight)  # the same again
    begun(warm, straight / "checkpoints" / "00000020")
    with pytest.raises(UsageError, match=r"began from .*00000020 \(average 0\), and this command says --init-from"):
        begun(warm, tmp_path)
    with pytest.raises(UsageError, match=r"\(average 0\), and this command says .* \(raw\); leave --init-from out"):
        begun(warm, InitFrom(straight, None))
    with pytest.raises(UsageError, match="began from parameters of its own, and this command says"):
        begun(straight, warm)
    for itself in (warm, warm / "checkpoints" / "00000020"):
        with pytest.raises(UsageError, match="is the run of --outdir itself"):
            begun(warm, itself)


def test_a_source_that_is_none_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"--init-from .*nowhere does not exist; give the folder of a run"):
        begun(tmp_path / "run", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"--init-from .*empty holds no checkpoint that can be trusted"):
        begun(tmp_path / "run", tmp_path / "empty")


def test_a_damaged_run_is_trained_anew_from_its_source_alone(straight, warm, tmp_path):
    shutil.copytree(warm, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/config.json"):
        path.write_text("{}")
    plain = {"data": tiny_data(), "quiet": True, "restart": True}
    with pytest.raises(UsageError, match=f"this run began from {straight}; add --init-from {straight}"):
        loop.train(tiny_config(), tmp_path / "run", **plain)
    begun(tmp_path / "run", straight, restart=True)
    assert_same(arrays(warm, 20), arrays(tmp_path / "run", 20))


def test_other_classes_by_their_names(straight, tmp_path):
    """A run on other classes: those of a known name keep their row."""
    facts = Facts(SHAPE, 3, ("d", "new", "a"))

    class Three:
        def __getitem__(self, step):
            batch = tiny_data().batches[step]
            return {**batch, "label": batch["label"] % 3}

    config = tiny_config(training={"steps": 1, "validate_every": 0}, ema={"warmup": False})  # a program of its own
    begun(tmp_path, straight, config, RunData(facts, Three()))
    before, after = (
        arrays(*place)["ema"]["0"]["emb"]["table"]["embedding"] for place in ((straight, 20), (tmp_path, 0))
    )
    np.testing.assert_array_equal(after, before[[3, 4, 0, 4]])
    noted = recorded(tmp_path / "checkpoints" / "00000000")
    assert (noted.known_classes, noted.new_classes) == (("d", "a"), ("new",))
    assert "classes it knows: d, a, classes that begin as no class: new" in noted.told()[0]


@pytest.mark.parametrize(
    "changed",
    [{"carried": 5}, {"new": "abc"}, {"new": [1]}, {"step": "3"}, {"run": None}, {"known_classes": None}],
    ids=str,
)
def test_a_note_of_other_types_is_named(tmp_path, changed):
    whole = Origin("a", "b", 3, "c", "raw", ("d",), ())
    for said, sound in ((whole.to_json(), True), ({**whole.to_json(), **changed}, False)):
        (tmp_path / "checkpoint.json").write_text(json.dumps({KEY: said}))
        if sound:
            assert recorded(tmp_path) == whole
            continue
        with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged \(.* has fields of other types\)"):
            recorded(tmp_path)
    (tmp_path / "checkpoint.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged"):
        recorded(tmp_path)


@pytest.fixture
def kin(tmp_path):
    """A function: whether a run of `config` on images of `side` pixels may begin from one of `before` on 32."""

    def check(before, config, side=32, channels=1):
        facts = Facts((32, 32, 1), 4, tuple("abcd"))
        source = Source(before, facts, {}, tmp_path / "checkpoints" / "00000001", 1, "", "raw")
        require_kin(source, config, dataclasses.replace(facts, event_shape=(side, side, channels)))

    return check


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"objective": Generator()}, "--objective denoising, and this run is to be with --objective generator"),
        ({"conservative": True}, "--conservative False, and this run is to be with --conservative True"),
        ({"learned_variance": True}, "with --learned-variance False"),
        ({"network": MLPConfig(hidden=9, layers=1, embedding=4)}, r"do not fit --network.hidden 9; give 8"),
        ({"network": UNetConfig()}, "--network mlp, and this run is to be with --network unet"),
    ],
)
def test_another_kind_is_refused(changed, sentence, kin):
    with pytest.raises(UsageError, match=sentence):
        kin(tiny_config(), dataclasses.replace(tiny_config(), **changed))


def test_points_are_no_images_and_a_blind_network_is_not_told_the_noise(kin, tmp_path):
    config = tiny_config()
    source = Source(config, Facts((2,), 0), {}, tmp_path / "checkpoints" / "00000001", 1, "", "raw")
    with pytest.raises(UsageError, match="data of points, and this run is to be with data of images"):
        require_kin(source, config, Facts(SHAPE, 0))
    blind = dataclasses.replace(config, preconditioning=dataclasses.replace(config.preconditioning, kind="residual"))
    with pytest.raises(UsageError, match=r"--preconditioning.kind edm, and this run is to be with"):
        kin(config, blind)


def test_dropout_and_types_may_change_and_a_schedule_with_a_word(kin, capsys):
    network = dataclasses.replace(tiny_config().network, dropout=0.0, compute_dtype="bfloat16")
    kin(tiny_config(), tiny_config(network=network))
    assert capsys.readouterr().err == ""
    kin(tiny_config(), tiny_config(schedule=VP()))
    assert "--schedule is not that of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        (UNetConfig(attention_resolutions=(16,)), "--network.attention-resolutions .*; give 32"),
        (DiTConfig(), "--network.position-grid 0; give 16"),
    ],
)
def test_a_network_follows_the_size_of_the_data_or_is_told_how(network, wanted, kin):
    config = tiny_config(network=network)
    was, now = (Facts((side, side, 1), 0) for side in (32, 64))
    with pytest.raises(UsageError, match=wanted):
        kin(config, config, side=64)
    kin(config, following(config, config, was, now), side=64)
    kin(config, following(config, config, was, was))
    kin(config, following(config, config, was, now), side=64, channels=3)
    wider = tiny_config(network=dataclasses.replace(network, dropout=0.5))
    assert following(wider, config, was, now).network.dropout == 0.5
    assert following(tiny_config(), config, was, now) == tiny_config()


def test_in_python_by_a_folder_or_by_a_run_that_was_loaded(straight, tmp_path):
    config, data = tiny_config(training={"steps": 1}), tiny_data()
    run = load(straight, average=1)
    for name, options in (("run", {"init_from": run}), ("place", {"init_from": str(straight), "init_average": 1})):
        with steps_of(config, tmp_path / name, data=data, devices=tuple(jax.devices()[:1]), **options) as steps:
            list(steps)
        assert_same(arrays(straight, 20)["ema"]["1"], arrays(tmp_path / name, 0)["params"])
    for wrong, sentence in (
        ({"init_from": 3}, "init_from is 3; give"),
        ({"init_from": "a", "init_average": "b"}, "init_"),
    ):
        with pytest.raises(UsageError, match=sentence):
            steps_of(config, tmp_path / "wrong", **wrong)
