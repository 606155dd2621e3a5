#!/usr/bin/env bash
# Set up .venv, check the style, run the tests, on as many processes as there are cores, at most four.
# Options go to pytest: ./run_tests.sh -k loss; with -n 0 all tests run in one process.
set -euo pipefail
cd "$(dirname "$0")"
source common/setup_venv.sh
ruff check .
ruff format --check .
python -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
