"""Coordinates from the Protein Data Bank, fetched once into the structures' folder, when the user asks for it."""

import gzip
import http.client
import re
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path

from common.cli import InputError
from common.files import atomic_path
from simulation.structures import STRUCTURE_SUFFIXES, read_atoms

ARCHIVE = "https://files.rcsb.org/download/{name}.cif.gz"
TIMEOUT = 60  # s


def download_missing(folder: Path | str, names: Iterable[str]) -> list[Path]:
    """Fetch the PDB entries among `names` that have no file in `folder` yet; the folder is made where it is missing.

    Raises:
        InputError: a name that is no PDB id; an entry that cannot be had, or does not parse. The message says which
            file to put where by hand.
    """
    folder = Path(folder)
    files = [path.name.lower() for path in folder.glob("*")]
    present = {name.split(".")[0] for name in files if name.endswith(STRUCTURE_SUFFIXES)}
    missing = [name for name in names if name.lower() not in present]
    for name in missing:
        if not re.fullmatch(r"[0-9][0-9A-Za-z]{3}", name):
            place = folder / (name + ".cif")
            raise InputError(
                f"{name}: not in {folder}, and no PDB id that could be downloaded (1bxn is one); put it there "
                f"yourself, as {place}; 4v4r_30S is the small subunit's chains of 4v4r"
            )
    fetched = []
    for name in missing:
        path = folder / f"{name}.cif.gz"
        fetch(ARCHIVE.format(name=name.upper()), path)
        print(f"downloaded {path}")
        fetched.append(path)
    return fetched


def fetch(address: str, path: Path) -> None:
    """Fetch one gzipped mmCIF file, check that it holds atoms, then put it in its place."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content = answer.read()
        text = gzip.decompress(content)
    except (OSError, EOFError, ValueError, zlib.error, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{address}: cannot be downloaded ({reason}); put the file yourself at {path}") from error
    with atomic_path(path) as temporary:
        plain = temporary.with_name(f".{path.name}.check.cif")
        try:
            plain.write_bytes(text)
            read_atoms(plain)
        except InputError as error:
            raise InputError(f"{address}: what came is not a structure; put the file yourself at {path}") from error
        finally:
            plain.unlink(missing_ok=True)
        temporary.write_bytes(content)
