"""A command that does not train, stopped by a signal."""

import signal
import subprocess
import sys

import pytest

from experiments.training.interrupt import SIGNALS
from experiments.training.stopping import stopping

PROGRAM = """
import hashlib, os, pathlib, signal, tempfile, threading
from experiments import files
from experiments.training.stopping import stopping, tell_written
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_DFL)  # as a terminal has it
threading.Timer(0.1, os.kill, (os.getpid(), {signum:d})).start()
with stopping():
    {before}
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
"""A digest of a thousand million rounds, in which Python hears nothing, as in a compilation."""


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("pass", "nothing was written"),
        ("tell_written(lambda count: f'{3 + count} of 4 are written')", "3 of 4 are written"),
        ("files.write_text(pathlib.Path(tempfile.mkdtemp(), 'a'), 'b')", "1 file was written"),
        ("import io, sys; sys.stderr = io.StringIO()", "nothing was written"),  # as while the command line is read
    ],
)
def test_a_signal_ends_a_command_whatever_it_is_at_and_says_what_was_written(signum, before, words):
    program = PROGRAM.format(signum=signum, before=before)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signum
    assert ended.stderr == f"scorefield: stopped by {signum.name}; {words}.\n"


def test_what_is_half_written_goes_with_a_command_that_is_stopped(tmp_path):
    """Pictures that were just being written lay about until somebody gave the same command again."""
    whole, half = (f"pathlib.Path({str(tmp_path / name)!r})" for name in ("whole", "half"))
    before = f"files.write_text({whole}, 'b'); held = files.replacing({half}); held.__enter__().write_text('c')"
    program = PROGRAM.format(signum=signal.SIGTERM, before=before)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stderr == "scorefield: stopped by SIGTERM; 1 file was written.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_the_signals_are_as_before_when_a_command_is_done():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    with stopping():
        pass
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
