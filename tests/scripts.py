"""Run the project's scripts as a user does."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def run_script(script: str, *options: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script as a user does: another process, another folder."""
    environment = {**os.environ, "PYTHONWARNINGS": "error::UserWarning", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / script), *options]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def succeed(script: str, *options: str, cwd: Path) -> str:
    """What a script printed; it must exit with 0."""
    done = run_script(script, *options, cwd=cwd)
    assert done.returncode == 0, f"{script} {options}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def refuse(script: str, *options: str, cwd: Path) -> str:
    """The one line of a script that must refuse its input: exit code 2, no traceback."""
    done = run_script(script, *options, cwd=cwd)
    assert done.returncode == 2, f"{script} {options} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]
