"""Is bad input read rightly or refused in one line? Volumes and tables of every kind, whole and damaged.

    python -m benchmarks.faults

Each case is read by the function that the scripts read with, in one process. It must give what the file holds, or an
InputError of one line that names the file; within 2 s, and with no more memory than such a file can fill. Volumes are
compared with what a second, plain reader finds in the bytes; of tables that are read only the rest is asked.
"""

import re
import shutil
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from benchmarks import bad_tables, bad_volumes, machine, study
from common.cli import InputError, run
from loader.coordinates import read_picks
from loader.rows import class_names, read_rows
from loader.sources import read_particles_csv, read_star
from loader.volume import read_volume, write_volume
from prediction.inputs import find_inputs

SLOW_S = 2.0  # of one case
ROOM, TIMES = 2**22, 40  # bytes that any case may allocate, and how many times its file
SAYS = re.compile("expected|claims|asked for|no such file|damaged|holds|not a|found|twice|more than once| no ")
LONGEST = 2000  # characters of a line
OUTCOMES = ("read", "refused in one line", "wrong", "refused though whole", "error of several lines or without the "
            "file", "traceback", "slow", "too much memory")  # fmt: skip
GOOD = OUTCOMES[:2]
READERS = {  # of each kind of table
    "particles": (read_particles_csv, lambda path: find_inputs([str(path)])),
    "split": (lambda path: class_names(read_rows(path).rows, path), lambda path: find_inputs([str(path)])),
    "coordinates": (read_picks,),
    "images": (read_star, lambda path: find_inputs([str(path)])),
    "places": (read_picks,),
}


@dataclass(frozen=True)
class Config:
    volumes: int = 20_000  # volumes with fuzzed headers, beside those that are listed
    tables: int = 10_000  # damaged tables, of all kinds together
    quick: bool = False  # make a fortieth of both numbers
    seed: int = 9  # seed of the cases
    results: str = ""  # files of the results, without endings; empty: benchmarks/results/faults, or faults_quick


@dataclass(frozen=True)
class Judged:
    """What came of one case: one of OUTCOMES, what was said, and the seconds it took."""

    outcome: str
    said: str
    seconds: float


def main(cfg: Config) -> None:
    share = 40 if cfg.quick else 1
    rng = np.random.default_rng(cfg.seed)
    counts: dict[str, Counter] = {}
    slowest, shown = 0.0, []
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, judged in chain(
            volumes(Path(folder), rng, cfg.volumes // share), tables(Path(folder), rng, cfg.tables // share)
        ):
            counts.setdefault(kind, Counter())[judged.outcome] += 1
            slowest = max(slowest, judged.seconds)
            if judged.outcome not in GOOD and len(shown) < 20:
                shown.append(f"{kind}: {judged.outcome}: {judged.said[:300]}")
    content = {
        "options": {"volumes": cfg.volumes // share, "tables": cfg.tables // share, "seed": cfg.seed},
        "quick": cfg.quick,
        "counts": {kind: dict(found) for kind, found in counts.items()},
        "slowest_s": round(slowest, 3),
        "processor_s": round(time.process_time() - started, 1),
        **machine.record(torch.device("cpu")),
    }
    study.write_results(
        cfg.results or study.RESULTS / ("faults_quick" if cfg.quick else "faults"), content, page(content)
    )
    print("\n".join([page(content), *shown]))


def volumes(folder: Path, rng: np.random.Generator, fuzzed: int) -> Iterator[tuple[str, Judged]]:
    """Each volume's kind, and what came of it."""
    every = (bad_volumes.whole, bad_volumes.cut, bad_volumes.no_volume)
    for case in chain(*(make(rng) for make in every), bad_volumes.fuzzed(rng, fuzzed)):
        yield f"volumes: {case.kind}", judge_volume(folder / "case" / case.name, case)


def judge_volume(path: Path, case: bad_volumes.Case) -> Judged:
    """Make a volume, read it, and remove it."""
    path.parent.mkdir()
    try:
        case.make(path)
        address = str(path) if case.number is None else f"{case.number}@{path}"
        return judge(lambda: read_volume(address)[0], path, lambda found: _same(found, case.expected), case.expected)
    finally:
        shutil.rmtree(path.parent)


def _same(found: np.ndarray, expected: np.ndarray | None) -> bool:
    return expected is not None and found.shape == expected.shape and np.array_equal(found, expected)


def tables(folder: Path, rng: np.random.Generator, count: int) -> Iterator[tuple[str, Judged]]:
    """Each table's kind, and what came of it with every reader of that kind."""
    names = [f"v{number}.mrc" for number in range(8)]
    (folder / "tables").mkdir()
    for name in names:
        write_volume(folder / "tables" / name, rng.normal(size=(4, 4, 4)).astype(np.float32), 10.0)
    for table in bad_tables.tables(rng, count, names):
        path = folder / "tables" / f"t{table.suffix}"
        path.write_bytes(table.content)
        for read in READERS[table.kind]:
            yield f"tables: {table.kind}", judge(partial(read, path), path)
    path = folder / "tables" / "t.json"
    for _ in range(count // 20):
        path.write_bytes(bad_tables.copick(rng))
        yield "tables: copick", judge(lambda: read_picks(path), path)


def judge(
    read: Callable[[], object],
    path: Path,
    right: Callable[[object], bool] = lambda found: True,
    expected: object = None,
) -> Judged:
    """What comes of reading a file.

    Args:
        right: whether what was read is what the file holds. expected: None where it may be refused.
    """
    held = path.stat().st_size if path.is_file() else 0
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, started = tracemalloc.get_traced_memory()[0], time.perf_counter()
    try:
        said = ""
        outcome = "read" if right(read()) else "wrong"
    except InputError as error:
        said = str(error)
        clear = "\n" not in said and len(said) <= LONGEST and path.name in said and SAYS.search(said)
        outcome = "refused in one line" if clear else OUTCOMES[4]
        if expected is not None:
            outcome = "refused though whole"
    except Exception as error:  # whatever else it is, a user would see its traceback
        outcome, said = "traceback", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1] - before
    if not tracing:
        tracemalloc.stop()
    if outcome in GOOD and seconds > SLOW_S:
        outcome = "slow"
    if outcome in GOOD and peak > ROOM + TIMES * held:
        outcome, said = "too much memory", f"{peak:,} bytes; {said}"
    return Judged(outcome, said, seconds)


def failures(counts: Iterable[Counter | dict]) -> int:
    """How many cases were neither read rightly nor refused in one line."""
    return sum(number for found in counts for outcome, number in found.items() if outcome not in GOOD)


def page(content: dict) -> str:
    """The table, with what it was measured on."""
    rows = []
    for kind, found in content["counts"].items():
        counts = (sum(found.values()), found.get(GOOD[0], 0), found.get(GOOD[1], 0), failures([found]))
        rows.append((kind, *(f"{count:,}" for count in counts)))
    totals = [sum(int(row[at].replace(",", "")) for row in rows) for at in range(1, 5)]
    rows.append(("all", *(f"{total:,}" for total in totals)))
    flag = " --quick" if content["quick"] else ""
    lines = [
        *("# Bad input: read rightly, or refused in one line", ""),
        f"`python -m benchmarks.faults{flag}`, seed {content['options']['seed']}. The slowest case took "
        f"{content['slowest_s']:g} s, all of them {content['processor_s']:g} s of one processor. "
        f"{machine.text(content)}.{machine.commit_text(content)}",
        *("", *study.markdown_table(["kind", "cases", "read", "refused in one line", "failures"], rows)),
        "",
        "Volumes that are read equal what a second, plain reader finds in their bytes; tables that are read are not",
        "compared with anything. A table counts once for each function that reads such tables. Files without",
        "permission are left out where the user may read everything (root).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
