"""The first import of every script: where the packages are missing, as without the environment, one line says so.

A module of work at import, as all other imports of a script come after it; it needs nothing but Python.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("numpy", "pandas", "scipy", "torch", "tyro", "tqdm", "mrcfile")  # what every script or nearly so needs


def missing_text() -> str:
    """What is missing, and what to do; empty where nothing is."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"{sys.executable} has no {', '.join(missing)}; in the repository: source .venv/bin/activate, or ./demo.sh, "
        "which makes that environment"
    )


if text := missing_text():
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
    sys.exit(2)
