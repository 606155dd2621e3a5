"""Signals to train.py before training begins: it ends at once."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.scripts import REPOSITORY

SLOW_DISK = """
import signal
import sys
import time
import loader.prepare as prepare
import train

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
read = prepare.read_volume


def read_slowly(address):
    time.sleep(0.5)
    print("a file is read", file=sys.stderr, flush=True)
    return read(address)


prepare.read_volume = read_slowly
train.run(train.main, train.Config, None)
"""


def hear(process: subprocess.Popen, pattern: str) -> str:
    """What a process says until it has said this."""
    heard = ""
    while not re.search(pattern, heard):
        letter = process.stderr.read(1)
        assert letter and "epoch 1/" not in heard, heard
        heard += letter
    return heard


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, "slow.py: interrupted"), (signal.SIGTERM, "slow.py: ended by SIGTERM")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_while_files_are_read_ends_the_run_at_once_with_one_line(copy, number, said):
    """The files would take another five seconds; four are being read when the signal comes, for half a second each."""
    (copy / "slow.py").write_text(SLOW_DISK)
    for packed in (copy / "csv_split").glob("*.packed.*"):
        packed.unlink()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=copy, env=environment, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    hear(process, "a file is read")
    process.send_signal(number)
    start = time.monotonic()
    rest = hear(process, re.escape(said) + "\n")
    assert time.monotonic() - start < 2
    rest += process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert rest.endswith(f"\n{said}\n")
    assert "Traceback" not in rest
    assert not (copy / "model_save").exists()
