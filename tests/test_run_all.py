import json
import sys
import time

import pytest

from benchmarks import run_all
from common.cli import InputError


def settings(folder, **options):
    return run_all.Config(work_dir=str(folder), device="cpu", **options)


def test_jobs_that_are_done_are_not_repeated_and_stopped_ones_go_on(tmp_path, monkeypatch, capsys):
    touch = f"from pathlib import Path; p = Path({str(tmp_path / 'count')!r}); p.write_text(p.read_text() + 'x')"
    (tmp_path / "count").write_text("")
    slow = f"import time; p = {str(tmp_path / 'slow')!r}; open(p, 'a').write('x'); time.sleep(60)"
    listed = {"first": [sys.executable, "-c", touch], "wrong": [sys.executable, "-c", "raise SystemExit(3)"]}
    listed["slow"] = [sys.executable, "-c", slow]
    listed["never"] = [sys.executable, "-c", touch]
    monkeypatch.setattr(run_all, "jobs", lambda cfg, device: listed)
    monkeypatch.setattr(run_all, "LEAST_SECONDS", 1)
    for _ in range(2):
        started = time.monotonic()
        run_all.main(settings(tmp_path, minutes=4 / 60))
        assert time.monotonic() - started < 30
    record = json.loads((tmp_path / "run_all.json").read_text())
    assert {name: job["state"] for name, job in record.items()} == {
        "first": "done",
        "wrong": "failed",
        "slow": "stopped",
    }
    assert (tmp_path / "count").read_text() == "x"
    assert (tmp_path / "slow").read_text() == "xx"
    assert "never: no time left" in capsys.readouterr().out


def test_every_command_is_one_that_exists(tmp_path):
    for command in run_all.jobs(settings(tmp_path), run_all.choose_device("cpu")).values():
        if "pytest" not in command:
            module = command[2].replace(".", "/") + ".py"
            assert (run_all.REPOSITORY / module).is_file(), module


def test_an_unknown_job_is_refused(tmp_path):
    with pytest.raises(InputError, match="--only nothing: expected some of tests, speed"):
        run_all.main(settings(tmp_path, only=("nothing",)))
