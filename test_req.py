"""Check that every dependency is there and new enough, and say what torch runs on.

requirements.txt, the installed packages -> a table; exit code 1, and what to do, when one is missing or too old

    python test_req.py

It needs nothing but Python, so that it can say what else is missing.
"""

import sys
from importlib.metadata import PackageNotFoundError, version

MIN_PYTHON = (3, 11)
REMEDY = (
    "in the repository: pip install -r requirements.txt; or ./run_tests.sh, which puts all of it into .venv, and then "
    "source .venv/bin/activate"
)
# the oldest versions that the code runs on; requirements.txt pins those it is tested with
MINIMA = {
    "torch": "2.11",
    "numpy": "2.0",
    "scipy": "1.13",
    "pandas": "2.2",
    "pyarrow": "15.0",
    "scikit-learn": "1.5",
    "pytorch-metric-learning": "2.8",
    "mrcfile": "1.5",
    "zarr": "3.0",
    "gemmi": "0.7",
    "umap-learn": "0.5.7",
    "matplotlib": "3.9",
    "tqdm": "4.66",
    "tensorboard": "2.18",
    "tyro": "0.9",
}


def numbers(text: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0)."""
    parts = []
    for part in text.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def main() -> int:
    old_python = sys.version_info[:2] < MIN_PYTHON
    least, bad = ".".join(map(str, MIN_PYTHON)), False
    print(f"{'too old' if old_python else 'ok':8s} python {sys.version.split()[0]}, at least {least}")
    for name, minimum in MINIMA.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            print(f"missing  {name}, at least {minimum}")
            bad = True
            continue
        old = numbers(found) < numbers(minimum)
        print(f"{'too old' if old else 'ok':8s} {name} {found}, at least {minimum}")
        bad |= old
    if old_python:
        print(f"python is too old: install python {least} or newer; {REMEDY}", file=sys.stderr)
        return 1
    if bad:
        print(f"something is missing or too old; {REMEDY}", file=sys.stderr)
        return 1
    try:
        import torch
    except (ImportError, OSError) as error:
        print(f"torch is installed but cannot be imported ({error}); {REMEDY}", file=sys.stderr)
        return 1

    if torch.cuda.is_available():
        print(f"device   cuda: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    else:
        print(f"device   cpu: {torch.get_num_threads()} threads; torch finds no CUDA device")
    return 0


if __name__ == "__main__":
    sys.exit(main())
