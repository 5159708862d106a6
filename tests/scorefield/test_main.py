"""The process of the command."""

import os

from experiments import cli
from scorefield.__main__ import main


def test_after_an_interruption_the_process_ends_at_once(monkeypatch):
    """And not by Python's own way out, on which jaxlib fails when it was compiling."""
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    for status in (0, 2, 143, 130):
        monkeypatch.setattr(cli, "main", lambda status=status: status)
        assert main() == status
    assert left == [130]


def test_an_interruption_is_a_status(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main([]) == cli.INTERRUPTED == 130
    assert capsys.readouterr().err == "scorefield: interrupted\n"
