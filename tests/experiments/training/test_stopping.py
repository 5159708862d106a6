"""A command that does not train, stopped by a signal."""

import signal
import subprocess
import sys

import pytest

from experiments.training.interrupt import SIGNALS
from experiments.training.stopping import Stopped, stopping, tell, tell_written


@pytest.fixture
def heard():
    """The signals as a terminal has them: a shell starts what it sends to the background with SIGINT ignored."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    yield handlers
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_raised_and_told_with_what_was_written(heard, capsys, signum):
    def command():
        with stopping():
            tell_written(lambda: "3 of 4 samples are written")
            signal.raise_signal(signum)

    with pytest.raises(Stopped) as stop:
        command()
    assert {one: signal.getsignal(one) for one in heard} == heard
    assert signal.set_wakeup_fd(-1) == -1
    assert tell(stop.value) == 128 + signum
    assert capsys.readouterr().err == f"scorefield: stopped by {signum.name}; 3 of 4 samples are written.\n"


def test_a_signal_that_is_ignored_stays_so(heard):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping():
        signal.raise_signal(signal.SIGHUP)


def test_a_command_that_hears_nothing_is_ended():
    """Here a digest of a thousand million rounds, in which Python hears nothing, as in a compilation."""
    program = (
        "import hashlib, os, threading\n"
        "from experiments.training import stopping\n"
        "stopping.SECONDS = 0.1\n"
        "threading.Timer(0.1, os.kill, (os.getpid(), 15)).start()\n"
        "with stopping.stopping():\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (143, "scorefield: stopped by SIGTERM; nothing was written.\n")
