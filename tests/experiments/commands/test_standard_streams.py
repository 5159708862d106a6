"""What becomes of a command whose output cannot be written, or is not there."""

import os
import subprocess
import sys

import pytest

from experiments import cli, memory
from experiments.commands import standard_streams


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(("end", "status"), [("full", 1), ("unread", 141)])
def test_output_that_cannot_be_written_is_one_line_or_none(end, status, buffered):
    command = [sys.executable, "-m", "scorefield", "--version"]
    reader, writer = os.pipe()
    os.close(reader)
    if end == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("no device that is full")
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer)
    env = {**os.environ, "PYTHONUNBUFFERED": buffered}
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=env)
    os.close(writer)
    said = "scorefield: error: the output cannot be written (No space left on device); make room, or send it elsewhere."
    assert (ended.returncode, ended.stderr) == (status, f"{said}\n" * (end == "full"))


def test_what_nobody_reads_is_lost_without_a_word(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"step 0")
        unread = standard_streams.Unbroken(stream)
        for line in range(3):
            print("step", line, file=unread, flush=True)
        assert not unread.isatty()
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(memory, "_own", False)
    monkeypatch.setattr(sys, "argv", ["scorefield", "--version"])
    monkeypatch.setattr(cli, "_collect_seldom", lambda: None)
    assert cli.main() == 0
    assert isinstance(sys.stderr, standard_streams.Unbroken)


@pytest.mark.parametrize("closed", ["", "<&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_lends_its_number_to_no_file(closed, tmp_path):
    """And what is meant for standard error is not printed to standard output."""
    code = f"""
import os, sys
from experiments import cli
cli._dispatch = lambda arguments: print("wrong", file=sys.stderr) or os.open({str(tmp_path / "file")!r}, os.O_CREAT)
sys.argv = ["scorefield"]
sys.exit(cli.main())
"""
    command = f'"{sys.executable}" -c "$CODE" {closed}'
    ended = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "CODE": code}, capture_output=True, text=True, check=False
    )
    assert ended.returncode >= 3
    assert ended.stdout == ""
    assert ended.stderr == "wrong\n" * ("2>" not in closed)
