"""--help of a script does without what only its work needs, and a script without its environment says so."""

import subprocess
import sys

import pytest

from tests.scripts import REPOSITORY

HEAVY = ("matplotlib", "pandas", "scipy", "sklearn", "umap", "gemmi")


@pytest.mark.parametrize(
    "script", ["open_set", "predict", "enrol", "test", "train", "simulate", "simulate_tomogram", "ship"]
)
def test_help_imports_nothing_heavy(script):
    code = (
        f"import sys, runpy; sys.argv = ['{script}.py', '--help']\n"
        f"try: runpy.run_path('{script}.py', run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == 0, end.code\n"
        f"print('heavy:', *sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "-h, --help" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("script", sorted({path.stem for path in REPOSITORY.glob("*.py")} - {"model", "test_req"}))
def test_without_the_environment_a_script_says_in_one_line_what_is_missing_and_what_to_do(script):
    done = subprocess.run([sys.executable, "-S", f"{script}.py"], cwd=REPOSITORY, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"{script}.py: error: {sys.executable} has no numpy, ")
    assert "torch" in line and "source .venv/bin/activate" in line and "./demo.sh" in line
