"""A sampler as one file: its bits are the run's, and what is damaged or fixed is refused in a sentence."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import scorefield
from diffusion.networks import fast
from experiments import streams
from experiments.errors import CheckpointError, UsageError
from experiments.exporting.bundle import ABOUT, ARRAYS, open_bundle
from experiments.exporting.sampler import export_sampler, read_sampler
from experiments.importing.safetensors import open_safetensors
from experiments.runs.load import load_model
from experiments.sampling.choice import SamplerChoice
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import choose_classes
from experiments.sampling.solver import build
from samplers import sample
from tests.experiments.exporting.conftest import FLAGS, needs_flatbuffers

pytestmark = needs_flatbuffers
ROOT = Path(__file__).parents[3]
KEPT = ROOT / "tests" / "experiments" / "runs" / "kept"
SEEDS = np.arange(3, 9)


def solver_of(model, name, steps):
    given = model.num_classes > 0
    return build(SamplerChoice.of(model.config, name, steps=steps), model, lambda: None, given_class=given)


def drawn(model, solver, guidance, seeds, **options):
    """(x of `samplers.sample`, the classes that it was told)."""
    classes = choose_classes(model)
    labels = None if classes is None else jnp.asarray(classes.of(seeds))
    denoise, shape = guidance.denoiser(model, labels), (len(seeds), *model.event_shape)
    key = jax.random.key(streams.SAMPLES)
    result = sample(key, model.process, denoise, solver.sampler, solver.grid, shape, ids=seeds, **options)
    return np.asarray(result.x), labels


def changed(path, target, members):
    """A copy of the file with other members; None leaves one out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            part = members.get(name, old.read(name))
            if part is not None:
                new.writestr(zipfile.ZipInfo(name), part)
    return target


def test_a_file_for_one_batch_draws_the_bits_of_the_run(exported, tmp_path, run_command):
    """Of samples that are guided, clipped and noisy, ten of them in batches of six."""
    run, path, said = exported
    assert (said["batch"], said["nfe"], said["guidance"]) == (6, 10, 1.5)
    common = ("--seeds", "3-12", "--format", "npz")
    own = run_command("sample", "--run", run, *FLAGS, "--batch", "6", *common, "--outdir", tmp_path / "a", "--json")
    again = run_command("sample", "--exported", path, *common, "--outdir", tmp_path / "b", "--json")
    assert (own.status, again.status) == (0, 0), own.err + again.err
    with np.load(tmp_path / "a" / "samples.npz") as a, np.load(tmp_path / "b" / "samples.npz") as b:
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert len(np.unique(a["images"], axis=0)) == 10
    for name in ("sampler", "steps", "grid", "options", "guidance", "clip", "class", "nfe", "checkpoint_sha256"):
        assert own.value[name] == again.value[name], name


def test_the_bits_are_those_before_pixels_too(exported, model):
    guidance = Guidance(strength=1.5, clip="dynamic")
    sampler = read_sampler(exported[1])
    solver = build(
        SamplerChoice.of(model.config, "heun", options=scorefield.Heun(S_churn=0.5), steps=3),
        model,
        lambda: None,
        given_class=True,
        guided=True,
    )
    x, labels = drawn(model, solver, guidance, SEEDS)
    np.testing.assert_array_equal(sampler.raw(SEEDS, labels), x)
    assert not np.array_equal(sampler.raw(SEEDS + 1, labels), x)
    assert not np.array_equal(sampler.raw(SEEDS, (np.asarray(labels) + 1) % 10), x)


def test_a_network_of_convolutions_and_attention_bit_for_bit(tmp_path):
    model = load_model(KEPT / "conditional")
    solver, path = solver_of(model, "ddim", 20), tmp_path / "sampler.zip"
    export_sampler(path, model, solver, Guidance(), choose_classes(model), batch=6, platforms=("cuda", "cpu"))
    x, labels = drawn(model, solver, Guidance(), SEEDS)
    np.testing.assert_array_equal(read_sampler(path).raw(SEEDS, labels), x)
    for platform in ("cuda", "cpu"):  # each program has the forms of its platform, and this process keeps its own
        with zipfile.ZipFile(path) as file:
            program = jax.export.deserialize(bytearray(file.read(f"sampler.{platform}.jaxexport")))
        assert program.platforms == (platform,)
        assert ("optimization_barrier" in program.mlir_module()) == (platform == "cpu")
    assert fast.on_cpu()


ANY_BATCH = """
import json, sys
from pathlib import Path
import numpy as np
import scorefield
from experiments.compilation import compile_quickly
from experiments.exporting.sampler import read_sampler
from tests.experiments.exporting.test_sampler import SEEDS, drawn, solver_of

compile_quickly()
kept, out = map(Path, sys.argv[1:])
points = scorefield.load(kept / "points")
solver = points.solver("sde-dpmpp", 4)
options = {"brownian_tree": True, "platforms": ("cpu",)}
about = scorefield.export_sampler(points, out / "points.zip", "sde-dpmpp", 4, **options)
sampler = scorefield.load_exported(out / "points.zip")
x, _ = drawn(points.model, solver, scorefield.Guidance(), SEEDS, brownian_tree=True)
run = scorefield.load(kept / "conditional")
scorefield.export_sampler(run, out / "images.zip", "ddim", 20, platforms=("cpu",))
y, labels = drawn(run.model, run.solver("ddim", 20, given_class=True), scorefield.Guidance(), SEEDS)
far = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())
print(json.dumps({
    "about": {name: about[name] for name in ("batch", "platforms", "classes", "scaling")},
    "six": far(sampler.raw(SEEDS), x),
    "two": far(sampler.raw(SEEDS[2:4]), x[2:4]),
    "points": far(sampler.sample(seeds=range(3, 9), batch=6), x),
    "images": far(read_sampler(out / "images.zip").raw(SEEDS, labels), y),
}))
"""


@pytest.fixture(scope="module")
def any_batch(tmp_path_factory):
    """(What programs for any batch are from the run's samples, their folder).

    In a process of their own: in this one, types are checked, and a symbolic size is no int.
    """
    out = tmp_path_factory.mktemp("any")
    command = [sys.executable, "-c", ANY_BATCH, str(KEPT), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out


def test_any_number_of_samples_within_rounding(any_batch):
    """Of a sampler along a Brownian path, and of a network of convolutions and attention."""
    far, _ = any_batch
    assert far["about"] == {"batch": None, "platforms": ["cpu"], "classes": None, "scaling": None}
    for name in ("six", "two", "points", "images"):
        assert far[name] < 1e-5, name


def test_a_file_for_any_batch_takes_the_batch_that_is_asked_for(any_batch, tmp_path, run_command):
    path = any_batch[1] / "points.zip"
    common = ("sample", "--exported", path, "--seeds", "0-4", "--outdir", tmp_path / "o", "--json")
    done = run_command(*common)
    assert (done.status, "makes points, without the density" in done.err) == (2, True), done.err
    done = run_command(*common, "--class", "1", "--format", "npz")
    assert (done.status, "which was exported without classes" in done.err) == (2, True), done.err
    done = run_command(*common, "--batch", "2", "--format", "npz")
    assert done.status == 0, done.err
    assert done.value["exported"]["batch"] is None
    with np.load(tmp_path / "o" / "samples.npz") as file:
        assert file["points"].shape == (5, 2)


def test_the_weights_are_arguments_and_not_in_the_program(exported, model):
    """All of them are in the file once, though guidance asks the network twice, and other ones give other samples."""
    bundle = open_bundle(exported[1])
    flat = jax.tree.leaves(model.params)
    ours = [array for name, array in bundle.arrays.items() if name.startswith("params.")]
    assert sorted(map(np.size, ours)) == sorted(map(np.size, flat))
    assert bundle.about["parameters"] == sum(map(np.size, flat))
    sampler, labels = read_sampler(exported[1]), np.arange(6)
    x = np.asarray(sampler.raw(SEEDS, labels))
    half = {name: 0.5 * array if name.startswith("params.") else array for name, array in bundle.arrays.items()}
    program = jax.jit(bundle.exported.call)
    np.testing.assert_array_equal(program(bundle.arrays, np.uint32(SEEDS), np.int32(labels)), x)
    assert np.abs(np.asarray(program(half, np.uint32(SEEDS), np.int32(labels))) - x).max() > 1e-3


def test_the_file_says_what_it_is(exported, model):
    about = open_bundle(exported[1]).about
    assert about["solver"]["sampler"] == "heun"
    assert about["solver"]["times"] == solver_of(model, "heun", 3).grid.tolist()
    assert about["clipping"] == {"clip": "dynamic", "clip_range": 1.0, "percentile": 99.5}
    assert about["scaling"] == {"bits": 8, "half": 127.5, "pixels": "round(127.5 (x + 1)), in 0..255"}
    assert about["classes"]["names"] == [str(i) for i in range(10)]
    assert about["origin"]["checkpoint_sha256"] == model.digest
    assert about["jax"]["version"] == jax.__version__
    with zipfile.ZipFile(exported[1]) as file:
        assert sorted(file.namelist()) == sorted(
            [ABOUT, ARRAYS, *(f"sampler.{name}.jaxexport" for name in ("cpu", "cuda", "tpu"))]
        )
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}


def test_classes_are_those_of_the_file_unless_others_are_asked_for(exported, tmp_path, run_command):
    _, path, _ = exported
    common = ("--exported", path, "--seeds", "0-5", "--format", "npz", "--json")
    done = run_command("sample", *common, "--outdir", tmp_path / "a", "--class", "3")
    assert (done.status, done.value["class"]) == (0, 3), done.err
    with np.load(tmp_path / "a" / "samples.npz") as file:
        assert file["labels"].tolist() == [3] * 6
        threes = file["images"]
    sampler = scorefield.load_exported(path)
    np.testing.assert_array_equal(sampler.sample(range(6), label=3), threes)
    assert not np.array_equal(sampler.sample(range(6)), threes)
    done = run_command("sample", *common, "--outdir", tmp_path / "b", "--class", "random")
    assert (done.status, done.value["class"]) == (0, "random"), done.err
    done = run_command("sample", *common, "--outdir", tmp_path / "c", "--class", "12")
    assert (done.status, "--class 12 does not exist" in done.err) == (2, True), done.err
    done = run_command("sample", *common, "--outdir", tmp_path / "c", "--class", "none")
    assert (done.status, "is told a class, and --class none is none" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sampler", "ddim"], "--sampler does not go with --exported"),
        (["--sampler.S_churn", "1"], "--sampler.S-churn does not go with --exported"),
        (["--steps=4"], "--steps does not go with --exported"),
        (["--run", "x"], "--run does not go with --exported"),
        (["--sigma_max", "3"], "--sigma-max does not go with --exported"),
        (["--ema", "raw"], "--ema does not go with --exported"),
        (["--kernel", "mala"], "--kernel does not go with --exported"),
        (["--batch", "5"], "--batch is 5, and"),
        (["--colour", "5"], "--colour is no option of scorefield sample --exported"),
    ],
)
def test_options_that_the_file_fixes_are_refused(exported, flags, sentence, tmp_path, run_command):
    done = run_command("sample", "--exported", exported[1], "--seeds", "0-5", "--outdir", tmp_path / "o", *flags)
    assert done.status == 2
    assert sentence in done.err
    assert not (tmp_path / "o").exists()


def other_about(path, **changes):
    with zipfile.ZipFile(path) as file:
        return json.dumps({**json.loads(file.read(ABOUT)), **changes})


def other_shape(path):
    """The arrays, the shape of the first of which is another."""
    with zipfile.ZipFile(path) as file:
        data = file.read(ARRAYS)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(name for name in header if len(header[name]["shape"]) == 2)
    header[name]["shape"] = header[name]["shape"][::-1]
    assert header[name]["shape"][0] != header[name]["shape"][1]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (lambda path: {ABOUT: None}, "lacks sampler.json, and is no exported sampler"),
        (lambda path: {ARRAYS: None}, "lacks arrays.safetensors"),
        (lambda path: {"sampler.cpu.jaxexport": None}, "is for cuda, tpu, and this is cpu"),
        (lambda path: {"sampler.cpu.jaxexport": b"x" * 100}, "its program, which jax"),
        (lambda path: {ABOUT: "{"}, "its sampler.json is not valid JSON"),
        (lambda path: {ABOUT: "[]"}, "is not that of an exported sampler"),
        (lambda path: {ABOUT: other_about(path, format_version=2)}, "is of version 2 of the format"),
        (
            lambda path: {ABOUT: other_about(path, jax={"version": "9.0", "calling_convention": 99})},
            "is too old for it",
        ),
        (lambda path: {ABOUT: other_about(path, jax={"version": "0.1", "calling_convention": 1})}, "is too new for it"),
        (lambda path: {ABOUT: other_about(path, jax=None)}, "does not say which jax can call it"),
        (lambda path: {ABOUT: other_about(path, classes=None)}, "its sampler.json is damaged"),
        (lambda path: {ABOUT: other_about(path, event_shape=[8, 8, 3])}, "its sampler.json is damaged"),
        (lambda path: {ABOUT: other_about(path, solver=3)}, "its sampler.json is damaged"),
        (lambda path: {ARRAYS: other_shape(path)}, "and the network of its configuration needs"),
        (lambda path: {ARRAYS: b"12345678"}, "is no file of safetensors, or is cut off"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(exported, members, sentence, tmp_path):
    path = changed(exported[1], tmp_path / "other.zip", members(exported[1]))
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        read_sampler(path)


def test_bytes_that_changed_are_seen(exported, tmp_path, run_command):
    data = bytearray(exported[1].read_bytes())
    for place in (len(data) - 3000, len(data) // 2, 200):
        other = bytearray(data)
        other[place] ^= 1
        (tmp_path / "other.zip").write_bytes(other)
        with pytest.raises(CheckpointError, match=r"is no zip file, or is damaged \(Bad CRC-32"):
            read_sampler(tmp_path / "other.zip")
    (tmp_path / "short.zip").write_bytes(data[: len(data) // 2])
    done = run_command("sample", "--exported", tmp_path / "short.zip")
    assert (done.status, done.err.count("\n")) == (4, 1)
    assert "is no zip file, or is damaged" in done.err
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_sampler(tmp_path / "nowhere.zip")
    with zipfile.ZipFile(exported[1]) as old, zipfile.ZipFile(tmp_path / "small.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match=r"has sampler.json compressed"):
        read_sampler(tmp_path / "small.zip")


def test_nothing_is_overwritten_and_nothing_is_left_behind(exported, tmp_path, run_command):
    run, path, _ = exported
    before = path.read_bytes()
    done = run_command("export", "--run", run, "--out", path)
    assert (done.status, f"{path} is there already; give another --out" in done.err) == (2, True)
    assert path.read_bytes() == before
    done = run_command("export", "--run", run, "--sampler", "cfgpp", "--class", "none", "--out", tmp_path / "x.zip")
    assert done.status == 2, done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "what to write is missing; give --out FILE.zip, --weights FILE.safetensors or --diffusers DIR"),
        (["--out", "a.zip", "--weights", "a.safetensors"], "--out and --weights are two exports"),
        (["--weights", "a.safetensors", "--steps", "3"], "--steps is of a sampler, and --weights writes weights alone"),
        (["--diffusers", "a", "--sampler", "ddim"], "--sampler is of a sampler, and --diffusers writes weights alone"),
        (["--weights", "a.safetensors", "--class", "3"], "--class is of a sampler"),
        (["--out", "a.zip", "--batch", "0"], "--batch is 0; give at least 1"),
        (["--out", "a.zip", "--platforms", "cpu,cpu"], "--platforms names each platform once"),
        (["--out", "a.zip", "--percentile", "9"], "--percentile goes with --clip dynamic"),
    ],
)
def test_an_export_that_is_not_clear_is_refused(conditional_run, flags, sentence, run_command):
    done = run_command("export", "--run", conditional_run, *flags)
    assert done.status == 2
    assert sentence in done.err


def test_what_cannot_be_written_down_is_refused_in_a_sentence(model, monkeypatch, tmp_path):
    def of_somebody(self, x, t):
        return jax.pure_callback(lambda x: x, x, x)

    monkeypatch.setattr(Guidance, "denoiser", lambda *_, **__: jax.tree_util.Partial(of_somebody, 1.0))
    with pytest.raises(UsageError, match="this sampler cannot be exported"):
        export_sampler(tmp_path / "x.zip", model, solver_of(model, "ddim", 2), Guidance(), None, batch=2)
    assert list(tmp_path.iterdir()) == []


BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("scorefield", "diffusion", "samplers", "experiments", "flax", "orbax", "optax"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Blocked())
"""


def test_the_lines_of_the_page_draw_the_same_samples_with_jax_alone(exported, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors missing, which the lines of the page read arrays with")
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    lines = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "zipfile" in block)
    assert len(lines.strip().splitlines()) <= 11  # ten, and an empty one
    (tmp_path / "digits.zip").symlink_to(exported[1])
    code = f"{BLOCKED}\n{lines}\nnp.savez('out.npz', x=x, pixels=pixels)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as out:
        sampler = scorefield.load_exported(exported[1])
        x = np.asarray(sampler.raw(np.arange(6), np.arange(6)))
        np.testing.assert_allclose(out["x"], x, rtol=0, atol=1e-5)
        assert np.abs(out["pixels"].astype(int) - sampler.sample(range(6)).astype(int)).max() <= 1


def test_the_page_in_python(exported, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import scorefield" in block)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(exported[0])
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(block.replace("steps=20", "steps=2"), "export.md", "exec"), scope)
    again = scope["run"].sample(range(16), "dpmpp-2m", steps=2, batch=16)
    np.testing.assert_array_equal(scope["images"], again)
    assert (tmp_path / "digits.safetensors").exists()
    assert re.findall(r"`scorefield\.(\w+)\(", page) == ["export_diffusers"]


def test_arrays_are_read_where_they_lie(exported, tmp_path):
    """A file of safetensors within another is that file."""
    with zipfile.ZipFile(exported[1]) as file:
        (tmp_path / "a.safetensors").write_bytes(file.read(ARRAYS))
    alone = open_safetensors(tmp_path / "a.safetensors")
    for name, array in open_bundle(exported[1]).arrays.items():
        np.testing.assert_array_equal(array, alone.read(name, finite=False))
