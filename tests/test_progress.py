"""Bars of progress: what a terminal shows of them, and that a log has none."""

import io
import sys

from common.progress import progress
from common.threads import in_threads


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work():
    assert list(progress("reading", range(3))) == [0, 1, 2]
    assert list(in_threads(abs, [-1, -2], "other")) == [1, 2]
    with progress("counting", total=7, begun=4, unit="part") as bar:
        bar.set_description("more")
        bar.update(3)


def test_a_terminal_shows_what_is_under_way_and_nothing_once_that_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    shown = sys.stderr.getvalue()
    assert "reading:   0%" in shown and "other:   0%" in shown and "more:  57%" in shown and "4/7" in shown
    assert not shown.rpartition("\r")[0].rpartition("\r")[2].strip()  # the last line is blank
    assert "\n" not in shown


def test_a_log_has_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    work()
    assert sys.stderr.getvalue() == ""


def test_no_bar_where_there_is_nothing_to_do_or_another_process_speaks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress("reading", [])) == list(in_threads(abs, [], "other")) == []
    assert list(progress("hidden", range(3), hidden=True)) == [0, 1, 2]
    monkeypatch.setenv("RANK", "1")
    work()
    assert sys.stderr.getvalue() == ""
