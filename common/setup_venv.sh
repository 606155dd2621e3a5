# Sourced by demo.sh and run_tests.sh, from the repository: makes .venv with what requirements.txt pins, once, and uses it.
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "$PYTHON: expected Python 3.11 or later; name another with PYTHON=/path/to/python $0" >&2
    exit 1
fi
if ! cmp -s requirements.txt .venv/installed.txt; then
    echo "Setting up .venv from requirements.txt (the first time takes a few minutes) ..."
    "$PYTHON" -m venv .venv
    .venv/bin/python -m pip install --disable-pip-version-check --requirement requirements.txt >.venv/install.log 2>&1 || {
        tail -n 20 .venv/install.log >&2
        echo "the installation failed; the whole log is in .venv/install.log" >&2
        exit 1
    }
    cp requirements.txt .venv/installed.txt
fi
export PATH="$PWD/.venv/bin:$PATH"
