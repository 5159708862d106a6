"""Compiled programs in the user's cache folder: what is read is what was written, and nothing there ever does harm."""

import gc
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments import cli, memory
from experiments.commands import compilation_cache
from experiments.commands.compilation_cache import JAX_VARIABLE, VARIABLE, Programs, folder_of, surroundings
from experiments.errors import UsageError

VALUE = bytes(range(256)) * 8


def programs(root, limit=2**20, name="jaxlib-1"):
    return Programs(root / name, limit)


def test_a_program_is_read_as_it_was_written(tmp_path):
    kept = programs(tmp_path)
    assert kept.get("jit_f-1") is None
    kept.put("jit_f-1", VALUE)
    assert kept.get("jit_f-1") == VALUE
    assert kept.get("jit_f-2") is None
    kept.put("jit_" + "f" * 1000, VALUE)  # longer than a file's name may be
    assert programs(tmp_path).get("jit_" + "f" * 1000) == VALUE


@pytest.mark.parametrize("place", [0, 31, 32, 1000, -1])
def test_a_flipped_bit_is_noticed_and_mended(tmp_path, place):
    kept = programs(tmp_path)
    kept.put("key", VALUE)
    (file,) = kept.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 16
    file.write_bytes(content)
    assert kept.get("key") is None
    kept.put("key", VALUE)
    assert kept.get("key") == VALUE


@pytest.mark.parametrize("length", [0, 1, 32, 33, 2000])
def test_a_truncated_program_is_noticed_and_mended(tmp_path, length):
    kept = programs(tmp_path)
    kept.put("key", VALUE)
    (file,) = kept.folder.iterdir()
    os.truncate(file, length)
    assert kept.get("key") is None
    kept.put("key", VALUE)
    assert kept.get("key") == VALUE


def test_what_others_can_write_is_not_run(tmp_path):
    kept = programs(tmp_path)
    kept.put("key", VALUE)
    (file,) = kept.folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    file.chmod(0o666)
    assert kept.get("key") is None


def age(kept, key, seconds):
    os.utime(kept._file(key), (seconds, seconds))


def test_the_longest_unused_go_first_whatever_jaxlib_they_are_of(tmp_path):
    old, new = programs(tmp_path, name="jaxlib-1"), programs(tmp_path, limit=9 * 2080, name="jaxlib-2")
    for i in range(4):
        old.put(f"old{i}", VALUE)
        age(old, f"old{i}", 1000 + i)
    for i in range(5):
        new.put(f"new{i}", VALUE)
        age(new, f"new{i}", 2000 + i)
    assert old.get("old0") == VALUE  # which makes it the newest; nine are within the limit
    new.put("new5", VALUE)
    assert [old.get(f"old{i}") for i in range(4)] == [VALUE, None, None, VALUE]
    assert all(new.get(f"new{i}") == VALUE for i in range(6))


def test_the_limit_holds_at_any_time(tmp_path):
    kept, limit = programs(tmp_path, limit=10_000), 10_000
    for i in range(20):
        kept.put(f"key{i}", VALUE)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= limit
        assert kept.get(f"key{i}") == VALUE
    kept.put("large", VALUE * 10)
    assert kept.get("large") is None
    assert kept.get("key19") == VALUE


def test_what_a_killed_process_left_is_removed(tmp_path):
    kept = programs(tmp_path, limit=3000)
    kept.folder.mkdir(parents=True)
    left, writing = kept.folder / ".0123.tmp", kept.folder / ".4567.tmp"
    left.write_bytes(b"half")
    writing.write_bytes(b"half")
    os.utime(left, (0, 0))
    kept.put("key", VALUE)
    assert not left.exists()
    assert writing.exists()


def test_a_folder_that_cannot_be_made_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    kept = programs(tmp_path / "file")
    assert kept.get("key") is None
    kept.put("key", VALUE)
    kept.clear()
    assert kept.get("key") is None


def test_a_full_disk_does_no_harm_and_leaves_no_half(tmp_path):
    kept = programs(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        kept.put("key", VALUE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(kept.folder.iterdir()) == []
    kept.put("key", VALUE)
    assert kept.get("key") == VALUE


def test_the_last_room_on_a_disk_is_left_to_others(tmp_path, monkeypatch):
    kept, usage = programs(tmp_path), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**28))
    kept.put("key", VALUE)
    assert kept.get("key") is None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**29))
    kept.put("key", VALUE)
    assert kept.get("key") == VALUE


def test_several_writers_and_readers_see_whole_programs(tmp_path):
    seen, values = set(), [bytes([i]) * 50_000 for i in range(4)]

    def work(value):
        kept = programs(tmp_path, limit=120_000)  # two fit: they are removed under the readers' eyes
        for i in range(25):
            kept.put(f"key{i % 3}", value)
            seen.add(kept.get(f"key{(i + 1) % 3}"))

    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= {None, *values}
    assert len(seen) > 2


def test_where_programs_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(JAX_VARIABLE, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder_of(None) == tmp_path / "scorefield" / "programs"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert folder_of(None) == tmp_path / ".cache" / "scorefield" / "programs"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert folder_of(None) == tmp_path / "Library" / "Caches" / "scorefield" / "programs"
    monkeypatch.setenv(JAX_VARIABLE, str(tmp_path / "jax"))
    assert folder_of(None) is None  # JAX's own
    monkeypatch.setenv(VARIABLE, str(tmp_path / "variable"))
    assert folder_of(None) == tmp_path / "variable"
    assert folder_of(str(tmp_path / "flag")) == tmp_path / "flag"
    assert folder_of("off") is None
    monkeypatch.setenv(VARIABLE, "off")
    assert folder_of(None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_flag_that_names_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for flag in (str(tmp_path / "file"), ""):
        with pytest.raises(UsageError, match="is no folder; give a folder, or off"):
            folder_of(flag)
    with pytest.raises(UsageError, match="cannot be written"):
        folder_of(str(tmp_path / "file" / "below"))


def test_a_folder_for_each_jaxlib_processor_and_set_of_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --b=2")
    mine = surroundings()
    monkeypatch.setenv("XLA_FLAGS", "--b=2  --a=1")
    assert surroundings() == mine
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    assert surroundings() != mine
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --b=2")
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "flags: sse9")
    assert surroundings() != mine
    monkeypatch.undo()
    assert compilation_cache._processor() == compilation_cache._processor() != ""


def test_the_command_takes_a_folder_or_off_before_its_name_or_after(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "keep_programs", seen.append)
    flag = ["--compilation-cache", str(tmp_path)]
    assert cli.main([*flag, "samplers"]) == cli.main(["samplers", *flag]) == 0
    assert cli.main(["samplers", "--compilation-cache=off"]) == cli.main(["samplers"]) == 0
    assert seen == [tmp_path, tmp_path, None, None]  # the last because these tests have named JAX's own
    assert cli.main(["samplers", "--compilation-cache", __file__]) == 2
    said = capsys.readouterr().err
    assert said.startswith("scorefield: error: --compilation-cache")
    assert said.count("\n") == 1


def test_garbage_is_looked_for_seldom_in_a_process_of_the_command_alone(monkeypatch):
    before = gc.get_threshold()
    monkeypatch.setattr(memory, "_own", False)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    try:
        cli.main(["--version"])
        assert gc.get_threshold() == before
        assert not memory._own
        monkeypatch.setattr(sys, "argv", ["scorefield", "--version"])
        cli.main()
        assert gc.get_threshold() == (100_000, *before[1:])
        assert memory._own
    finally:
        gc.set_threshold(*before)


# Counts what is compiled and what is read, of one small program.
PROGRAM = """
import sys
from pathlib import Path
from experiments.commands.compilation_cache import keep_programs
keep_programs(Path(sys.argv[1]))
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
print(jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((2, 2)))[0, 0], end=" ")
count = lambda name: sum(event == f"/jax/compilation_cache/{name}" for event in events)
print(count("cache_hits"), count("compile_requests_use_cache"))
"""

LOUD = """
from jax._src import compilation_cache
compilation_cache.get_executable_and_time = compilation_cache.get_executable_and_time.__wrapped__
jax.clear_caches()
print("by itself", file=sys.stderr, flush=True)
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((2, 2)))
"""

# Another name for a feature of the processor, so that XLA finds that the machine lacks it.
DOCTOR = """
import hashlib, re, sys, zlib
from pathlib import Path
for path in Path(sys.argv[1]).rglob("*.program"):
    program = zlib.decompress(path.read_bytes()[32:])
    feature = min(re.findall(rb"[+][a-z0-9.-]+(?=,)", program))
    program = zlib.compress(program.replace(feature + b",", feature[:-1] + b"Q,"))
    path.write_bytes(hashlib.sha256(program).digest() + program)
"""


def run(program, folder):
    environment = {name: value for name, value in os.environ.items() if name != JAX_VARIABLE}
    command = [sys.executable, "-c", program, str(folder)]
    root = str(Path(compilation_cache.__file__).parents[2])
    environment["PYTHONPATH"] = root
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


@pytest.fixture(scope="module")
def kept_by_a_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    (value, hits, requests), said = run(PROGRAM, folder)
    assert (value, hits, said) == ("3.0", "0", "")
    assert int(requests) > 0
    return folder, requests


def test_the_next_process_reads_them_and_hears_of_no_other_machine(kept_by_a_process, tmp_path):
    folder, requests = kept_by_a_process
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    run(DOCTOR, tmp_path)
    done, said = run(PROGRAM + LOUD, tmp_path)
    before, _, after = said.partition("by itself")
    assert (done, before) == (["3.0", requests, requests], "")
    assert "cpu_aot_loader" in after  # XLA's log is as it was


@pytest.mark.parametrize("damage", ["checksum", "content"])
def test_damaged_programs_are_compiled_anew_in_silence(kept_by_a_process, tmp_path, damage):
    folder, requests = kept_by_a_process
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    files = list(tmp_path.rglob("*.program"))
    for path in files:
        if damage == "checksum":
            path.write_bytes(path.read_bytes()[:-5])
        else:  # of another version, say: JAX cannot read what is there
            path.write_bytes(hashlib.sha256(b"no program").digest() + b"no program")
    assert run(PROGRAM, tmp_path) == (["3.0", "0", requests], "")
    for path in files:
        content = path.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]
        assert content[32:] != b"no program"


def test_a_home_that_cannot_be_written_does_no_harm(kept_by_a_process, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(PROGRAM, tmp_path / "file" / "programs") == (["3.0", "0", kept_by_a_process[1]], "")
