#!/usr/bin/env bash
# Set up .venv, check the style, run the tests. Options go to pytest: ./run_tests.sh -k loss
set -euo pipefail
cd "$(dirname "$0")"
source common/setup_venv.sh
ruff check .
ruff format --check .
python -m pytest "$@"
