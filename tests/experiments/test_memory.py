"""What is left of the memory, as Linux tells it, and the sentence when there is none."""

import resource
from pathlib import Path

import numpy as np
import pytest

from experiments import cli, memory
from experiments.errors import ExhaustedError
from experiments.interface.run import load
from experiments.memory import available, forget_programs, give_back, ran_out, remedied, shown

KB = 1024


def machine(root, groups="", **files):
    """A /proc and a /sys; `files` are those of the control groups, their folders separated by two underscores."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    4000 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return root


def test_the_machine_has_what_it_says(tmp_path):
    assert available(machine(tmp_path)) == 4000 * KB
    assert available(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(("most", "left"), [("max", 4000 * KB), (2_000_000, 1_100_000), (10**9, 4000 * KB)])
def test_a_control_group_leaves_less(tmp_path, most, left):
    """Its limit less what it holds, but for files that are only kept; that of a group above it counts as well."""
    own = {"a__b__memory_DOT_max": "max", "a__b__memory_DOT_current": 5}
    above = {"a__memory_DOT_max": most, "a__memory_DOT_current": 1_000_000}
    stat = {"a__memory_DOT_stat": "anon 900000\ninactive_file 100000\n"}
    assert available(machine(tmp_path, "0::/a/b\n", **own, **above, **stat)) == left


def test_a_group_of_the_first_version_leaves_less(tmp_path):
    """In a container the place is that of the host, and its own group the topmost that is seen."""
    files = {"limit_in_bytes": 2_000_000, "usage_in_bytes": 1_500_000}
    files = {f"memory__memory_DOT_{name}": value for name, value in files.items()}
    root = machine(tmp_path, "5:cpu:/\n4:memory:/host/of/it\n", **files)
    assert available(root) == 500_000
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712")
    assert available(root) == 4000 * KB


class JaxRuntimeError(RuntimeError):
    """Named as JAX's, which cannot be made to happen on any machine."""


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), ""),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 72000000000 bytes."), ", when 72.0 GB more "),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.34GiB."), ", when 12.34GiB "),
    ],
)
def test_a_sentence_is_said_when_memory_runs_out(error, asked):
    sentence = f"^memory ran out{asked}.*; give a smaller --batch\\.$"
    with pytest.raises(ExhaustedError, match=sentence) as caught, remedied("give a smaller --batch"):
        raise error
    assert caught.value.exit_status == 8


def test_numpy_says_how_much_it_asked_for():
    sentence = r"^memory ran out, when 8\.00 EiB more were asked for; give less"
    with pytest.raises(ExhaustedError, match=sentence), remedied("give less"):
        np.empty(2**60 - 1, np.float64)


def test_other_errors_pass():
    for error in (RuntimeError("RESOURCE_EXHAUSTED"), JaxRuntimeError("INTERNAL: no"), ValueError("out of memory")):
        assert not ran_out(error)
        with pytest.raises(type(error)), remedied("give less"):
            raise error


def test_sizes_are_shown_for_people():
    assert [shown(size) for size in (17, 3_210_000, 7.2e10)] == ["17 bytes", "3.2 MB", "72.0 GB"]


@pytest.mark.parametrize("command", cli.OF_A_RUN)
def test_every_command_says_so_and_ends_with_one_status(monkeypatch, capsys, command):
    def run(words):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 72000000000 bytes.")

    monkeypatch.setattr(f"experiments.commands.{cli.MODULES.get(command, command)}.run", run)
    assert cli.main([command, "--run", "runs/none"]) == 8
    said = capsys.readouterr().err
    remedy = cli.REMEDIES[command]
    assert said == f"scorefield: error: memory ran out, when 72.0 GB more were asked for; {remedy}.\n"


def test_python_is_told_so_too(monkeypatch, tiny_run):
    def draw(*arguments, **options):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 72000000000 bytes.")

    monkeypatch.setattr("experiments.interface.run.draw", draw)
    with pytest.raises(ExhaustedError, match=r"were asked for; give a smaller batch, or fewer seeds\.$"):
        load(tiny_run).sample()


def test_a_batch_that_does_not_fit_is_refused_before_it_is_drawn(tiny_run):
    run, many = load(tiny_run), 2**31 - 1
    sentence = r"^a batch of 2,147,483,647 samples takes at least 2.3 TB of memory, and .* is free; give a "
    with pytest.raises(ExhaustedError, match=sentence):
        run.sample(range(many), batch=many)


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says here how much is resident")
def test_what_is_free_is_given_back():
    blocks = [np.ones(8_000) for _ in range(2_000)]  # 128 MB, in pieces that the allocator keeps for itself
    last = blocks[-1]
    del blocks
    before = _resident()
    if not give_back():
        pytest.skip("this C library has no malloc_trim")
    assert before - _resident() > 64e6
    assert last[0] == 1.0


@pytest.mark.parametrize("own", [False, True])
def test_programs_are_forgotten_in_a_process_of_the_command_alone(monkeypatch, own):
    cleared = []
    monkeypatch.setattr(memory, "_own", own)
    monkeypatch.setattr("jax.clear_caches", lambda: cleared.append(1))
    forget_programs()
    assert cleared == [1] * own


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not give_back()
