"""What a training takes is known before it is compiled, and refused before it is allocated."""

import dataclasses
import math
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from diffusion.networks.configs import MLPConfig
from experiments.errors import ExhaustedError
from experiments.training import budget as budgets
from experiments.training import course, logging
from experiments.training.budget import (
    Budget,
    accumulation,
    budget_of,
    ceiling,
    forecast,
    require,
    require_compiled,
    tell,
)
from experiments.training.checkpoint import find_checkpoints
from experiments.training.generator import optimizer_of
from experiments.training.logging import Recorder, StepRecord
from experiments.training.loop import train
from experiments.training.model import make_network, network_of
from experiments.training.objective import make_objective
from experiments.training.replicas import Replicas
from experiments.training.room import size_of
from experiments.training.state import initial_state
from tests.experiments.training.tiny_run import BATCH, SHAPE, tiny_config, tiny_data

ONE, GB = tuple(jax.local_devices()[:1]), 10**9
FACTS = tiny_data().facts
pytestmark = pytest.mark.usefixtures("shared_programs")


def accelerator(limit=80 * GB, used=0, count=1):
    stats = {"bytes_limit": limit, "bytes_in_use": used}
    device = SimpleNamespace(platform="gpu", device_kind="H200", memory_stats=lambda: stats)
    return Replicas((device,) * count, count)


def expected(config, replicas=None):
    network = network_of(config, FACTS)
    objective = make_objective(config, network, FACTS.num_classes, config.network.dropout > 0)
    return budget_of(config, FACTS, network, objective, optimizer_of(config), replicas or Replicas(ONE, 1))


def made(state=2 * GB, gradient=GB, activations=96 * GB, share=512):
    """A budget of these numbers, whose arithmetic is a product of matrices for each image."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((share, 8, 4), (share, 4, 16))]
    return Budget(1000, state, gradient, activations, share, jnp.matmul, tuple(shapes))


def test_parameters_and_state_are_counted_exactly():
    config = tiny_config()
    budget = expected(config)
    _, params = make_network(config, FACTS, jax.random.key(0))
    state = initial_state(params, optimizer_of(config), config)
    assert budget.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (budget.state, budget.gradient) == (size_of(state), size_of(params))


def test_activations_are_those_of_the_images_that_are_computed_at_once():
    def activations(replicas=None, accumulate=1, batch=64):
        config = tiny_config(training={"batch_size": batch}, optimizer={"accumulate": accumulate})
        budget = expected(config, replicas)
        return budget.share, budget.activations

    (one, two, four) = (activations(batch=batch) for batch in (64, 128, 256))
    assert four[1] - two[1] == 2 * (two[1] - one[1])  # but for a constant they grow with the batch
    assert one[1] > 64 * math.prod(SHAPE) * 4  # the input of the first layer at least
    assert activations(accelerator(count=2), batch=128) == one
    assert activations(accelerator(), accumulate=4, batch=256) == one
    assert activations(accumulate=4, batch=256) == four  # on a CPU XLA keeps what all micro-batches need


def test_what_a_network_keeps_grows_with_its_width_and_with_an_image():
    wide = tiny_config(network=MLPConfig(hidden=64, layers=1, embedding=4, dropout=0.2))
    assert expected(wide).activations > 4 * expected(tiny_config()).activations - 8 * BATCH * math.prod(SHAPE) * 4


def test_a_step_that_surely_does_not_fit_is_refused_and_one_that_may_not_is_warned_of(capsys):
    config = tiny_config(training={"batch_size": 512})
    require(made(), config, accelerator(100 * GB))
    assert capsys.readouterr().err == ""
    require(made(), config, accelerator(98 * GB))
    said = capsys.readouterr().err
    assert said.startswith(
        "scorefield: a step takes up to 99.0 GB of memory by its shapes, and the H200 has 98.0 GB free;"
    )
    assert said.endswith("Compiling it will tell.\n")
    require(made(), config, accelerator(36 * GB))  # 3 GB and a third of 96 GB are 35 GB
    with pytest.raises(ExhaustedError, match=r"^a step takes up to 99.0 GB of memory .* the H200 has 34.0 GB free"):
        require(made(), config, accelerator(36 * GB, used=2 * GB))
    require(
        made(), config, Replicas((SimpleNamespace(platform="gpu", memory_stats=lambda: None),), 1)
    )  # it says nothing


@pytest.mark.parametrize(("free", "count"), [(80, 2), (40, 4), (20, 8), (10, 24), (5, None)])
def test_the_remedy_on_an_accelerator_is_as_many_micro_batches_as_it_takes(free, count):
    config = tiny_config(training={"batch_size": 768})
    budget = made(activations=96 * GB, share=768)
    assert accumulation(budget, free * GB, config, accelerator()) == count
    assert accumulation(budget, free * GB, config, Replicas(ONE, 1)) is None
    if count is not None:
        assert 4 * GB + 96 * GB / count <= 0.8 * free * GB
        fewer = max(n for n in range(1, count) if 768 % n == 0)
        assert 4 * GB + 96 * GB / fewer > 0.8 * free * GB


def test_the_compiled_step_is_held_against_what_is_free():
    config = tiny_config(training={"batch_size": 512})
    require_compiled(80 * GB, None, config, accelerator())
    sentence = (
        r"^the compiled step takes 81.0 GB of memory, and the H200 has 80.0 GB free; add --optimizer.accumulate 2, or "
        r"give a smaller --training.batch-size or --network.hidden\.$"
    )
    with pytest.raises(ExhaustedError, match=sentence):
        require_compiled(81 * GB, made(), config, accelerator())
    with pytest.raises(ExhaustedError, match=r"80.0 GB free; give a smaller --training.batch-size or --network.hidden"):
        require_compiled(81 * GB, None, config, accelerator())


def test_cpu_devices_share_the_machine_s_memory(monkeypatch):
    monkeypatch.setattr(budgets.memory, "available", lambda: 12 * GB)
    cpu = SimpleNamespace(platform="cpu")
    assert budgets.free_on(Replicas((cpu,) * 4, 4)) == 3 * GB
    with pytest.raises(ExhaustedError, match=r"each of 4 CPU devices has 3.0 GB free; give a smaller"):
        require(made(), tiny_config(), Replicas((cpu,) * 4, 4))


def test_the_speed_is_that_of_matrices_over_the_arithmetic_of_an_image(monkeypatch):
    """8·4·16 multiplications and as many additions, less or more one of each entry."""
    monkeypatch.setattr(budgets, "_multiplication", lambda device, dtype: 1024e6)
    budget = made(share=32)
    assert budget.flops() == pytest.approx(1024, rel=0.15)
    monkeypatch.setattr(Budget, "flops", lambda self: 1024.0)
    config = tiny_config(training={"batch_size": 512, "steps": 10_000})
    rate = ceiling(budget, config, two := accelerator(count=2))
    assert rate == (2e6, 1024.0, 1024e6)
    assert forecast(*rate, config, two) == (
        "at most 2,000,000 images/s, so 3 s or more for 10,000 steps: an image takes 1e-06 GFLOP, and the H200 "
        "multiplies matrices at 1 GFLOP/s"
    )
    monkeypatch.setattr(Budget, "flops", lambda self: None)
    assert ceiling(budget, config, accelerator()) is None


def test_a_product_of_matrices_is_timed(monkeypatch):
    monkeypatch.setattr(budgets, "_SIDE_ON_CPU", 64)
    assert 1e5 < budgets._multiplication(jax.local_devices()[0], "float32") < 1e15


def test_it_is_told_in_a_line(capsys):
    tell(made(), tiny_config(), accelerator())
    assert capsys.readouterr().err == (
        "1,000 parameters; a step of 8 images takes up to 99.0 GB of memory, by its shapes; the H200 has 80.0 GB free\n"
    )


def test_a_training_that_does_not_fit_is_refused_before_there_is_a_state(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(budgets, "free_on", lambda replicas: 100)
    monkeypatch.setattr("experiments.training.loop.starting_point", pytest.fail)
    with pytest.raises(ExhaustedError, match=r"^a step takes up to .* of memory .* this machine has 100 bytes free"):
        train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE)
    assert " parameters; a step of 8 images takes up to " in capsys.readouterr().err
    monkeypatch.setattr(budgets, "_LARGE", 0)
    with pytest.raises(ExhaustedError, match=r"^a step takes up to"):
        train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_compiled_step_that_does_not_fit_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(budgets, "free_on", lambda replicas: 100)
    with pytest.raises(ExhaustedError, match=r"^the compiled step takes .* this machine has 100 bytes free"):
        train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert not find_checkpoints(tmp_path / "checkpoints")


def test_memory_that_runs_out_in_the_loop_is_a_sentence(tmp_path):
    class Full:
        def __getitem__(self, step):
            raise MemoryError

    data = dataclasses.replace(tiny_data(), batches=Full())
    sentence = r"^memory ran out; give a smaller --training.batch-size or --network.hidden\.$"
    with pytest.raises(ExhaustedError, match=sentence):
        train(tiny_config(), tmp_path, data=data, devices=ONE, quiet=True)


def test_a_compilation_is_told_of_while_it_lasts(monkeypatch, capsys):
    monkeypatch.setattr(logging.PlainDisplay, "every", 0.01)
    for display, said in ((logging.PlainDisplay(), True), (logging.Silent(), False)):
        recorder = Recorder(tiny_config(), None, 0)
        recorder._display = display
        with recorder.compiling():
            time.sleep(0.1)
        assert ("compiling, 0 s\n" in capsys.readouterr().err) == said
        time.sleep(0.03)
        assert capsys.readouterr().err == ""


def test_what_set_the_training_up_is_let_go_before_its_step_is_compiled(tmp_path, monkeypatch):
    told = []
    for name in ("forget_programs", "give_back"):
        monkeypatch.setattr(f"experiments.training.course.{name}", lambda name=name: told.append(name))
    train(tiny_config(training={"steps": 1}), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert told == ["forget_programs", "give_back"]


def test_what_the_compiled_step_takes_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "_LONG", 0.0)
    train(tiny_config(training={"steps": 1}), tmp_path, data=tiny_data(), devices=ONE)
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("compiled in ") and "; as compiled a step takes " in line for line in said)


def test_the_speed_is_shown_as_soon_as_it_is_known(monkeypatch, capsys):
    """Of steps of a second: after the third, though a line is due after ten; then when it is due."""
    now = iter(range(1000))
    monkeypatch.setattr(logging.time, "perf_counter", lambda: float(next(now)))
    recorder = Recorder(tiny_config(training={"steps": 40, "log_every": 10}), None, 0)
    recorder._display = logging.PlainDisplay()
    for step in range(1, 21):
        recorder.record(step, StepRecord(0.5, 1.0, 1e-3, 1.0))
    assert capsys.readouterr().err.splitlines() == [
        "step 4/40  loss 0.5  8 images/s  ETA 0:00:36",
        "step 10/40  loss 0.5  8 images/s  ETA 0:00:30",
        "step 20/40  loss 0.5  8 images/s  ETA 0:00:20",
    ]
