"""What the benchmarks share: scripts as processes, data, runs that are not repeated, and how results are written."""

import json
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import torch

from common.cli import REPOSITORY, InputError, choose_device
from common.files import results_folder, write_csv, write_json, write_text
from simulation.class_sets import CLASS_SETS, ClassSet
from simulation.structures import procedural_name


class ScriptError(InputError):
    """A script that ended with an error."""


RESULTS = REPOSITORY / "benchmarks" / "results"
BRIEF = {"umap": False, "discovery": False, "floors": False}  # of open_set.py: pairs, scores and enrolment alone
PARTS = ("train", "valid", "test", "valid_unseen", "unseen")  # the files of a split


@dataclass(frozen=True)
class Size:
    """How much data and training: options of simulate.py and of train.py."""

    simulate: dict[str, str]
    train: dict[str, str]


FULL = Size({"per_class": "500"}, {"width": "64", "epochs": "30"})
QUICK = Size({"per_class": "120"}, {"width": "8", "epochs": "10"})


@dataclass(frozen=True)
class Study:
    """Options of every benchmark that trains networks on simulated data."""

    structures: str = ""  # folder of the benchmark's coordinate files; empty for procedural complexes
    quick: bool = False  # the size for a CPU
    simulate_options: dict[str, str] = field(default_factory=dict)  # of simulate.py, over the size's: per_class 300
    train_options: dict[str, str] = field(default_factory=dict)  # of train.py, over the size's: width 16 epochs 10
    device: str = "auto"  # auto, cpu or cuda
    results: str = ""  # files, without their endings; empty: benchmarks/results/<name>, or <name>_quick

    def stem(self, name: str) -> str:
        """Where the results go, without the endings of the files."""
        return self.results or str(RESULTS / f"{name}{'_quick' if self.quick else ''}")

    def settings(self, size: Size, data: dict, seeds: Sequence[int]) -> dict:
        """What the figures were measured on, for the files of results."""
        train = {**size.train, **self.train_options}
        return {"data": data, "train": train, "seeds": list(seeds), **machine(choose_device(self.device))}


def commit() -> str:
    """The commit of the code that runs, with `-dirty` where files differ from it; empty outside of git."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine(device: torch.device) -> dict[str, str | int]:
    """What figures depend on beside data and options: the machine, the versions, the code."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }


def write_results(stem: Path | str, content: dict, text: str) -> None:
    """Write `<stem>.json` and `<stem>.md`."""
    write_json(f"{stem}.json", content)
    write_text(f"{stem}.md", text)


def arguments(options: Mapping[str, object]) -> list[str]:
    """Options by field name as a command line: bools as flags, several values from a sequence or from spaces in text.

    {"per_class": 5, "snr": "0.1 inf", "crop": True} -> ["--per-class", "5", "--snr", "0.1", "inf", "--crop"]
    """
    given = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        values = value.split() if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
        given += [f"--{flag}", *map(str, values)]
    return given


def run_script(script: str, *given: str, log: Path) -> None:
    """Run a script of the repository as a process; what it prints is added to the file `log`.

    Where this process is asked to end (Ctrl-C, SIGTERM) the script is, too, and is waited for: training saves its run.

    Raises ScriptError, with the last line that it printed, when it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {script} {' '.join(given)}\n")
        file.flush()
        command = [sys.executable, str(REPOSITORY / script), *given]
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if code:
        last = log.read_text(encoding="utf-8").splitlines()[-1].strip()
        raise ScriptError(f"{script} ended with exit code {code}: {last}; all that it printed is in {log}")


def once(path: Path, settings: dict, job: Callable[[], dict]) -> dict:
    """The result of a job that was finished before, read from `path`; else that of `job()`, written there.

    Raises InputError when the job was finished with other settings.
    """
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        before = kept["settings"]
        changed = sorted(key for key in settings | before if settings.get(key) != before.get(key))
        if changed:
            raise InputError(f"{path}: made with other settings ({', '.join(changed)}); give another --work-dir")
        return kept["result"]
    result = job()
    write_json(path, {"settings": settings, "result": result})
    return result


def class_set(structures: str) -> ClassSet:
    """The benchmark's classes; without a folder of structures as many procedural complexes."""
    chosen = CLASS_SETS["benchmark"]
    if structures:
        return chosen
    names = map(procedural_name, count())
    return ClassSet(*(tuple(islice(names, len(role))) for role in (chosen.known, chosen.valid_unseen, chosen.unseen)))


def make_split(
    folder: Path,
    classes: ClassSet,
    structures: str,
    device: str,
    simulate: Mapping[str, object],
    split: Mapping[str, object] = MappingProxyType({}),
) -> tuple[Path, dict]:
    """Simulate a data set and split it, in `folder`, unless that is done.

    Args:
        classes: those to simulate, by use.
        structures: folder of coordinate files; empty for procedural complexes.
        device: auto, cpu or cuda.
        simulate, split: further options of simulate.py and csv_split.py.

    Returns:
        The folder of the split, and what the data are.
    """
    data = {
        "source": "coordinate files" if structures else "procedural complexes",
        **asdict(classes),
        "simulate": dict(simulate),
        "split": dict(split),
    }
    data_dir, csv_dir = folder / "data_", folder / "csv_split"
    chosen = {"structures": Path(structures)} if structures else {}
    held_out = {name: names for name in ("unseen", "valid_unseen") if (names := getattr(classes, name))}

    def make() -> dict:
        print(f"making the data: {len(classes.names)} classes, {data['source']}", flush=True)
        log = folder / "data.log"
        given = {"data_dir": data_dir, **chosen, "classes": classes.names, "device": device, **simulate}
        run_script("simulate.py", *arguments(given), log=log)
        given = {"data_dir": data_dir, "csv_dir": csv_dir, **held_out, **split}
        run_script("csv_split.py", *arguments(given), log=log)
        return {}

    once(folder / "data.json", data, make)
    return csv_dir, data


def write_parts(csv_dir: Path, parts: Mapping[str, pd.DataFrame]) -> None:
    """Write a split of tables that loader.rows.read_split gave; a part that is not named holds no volume."""
    header = next(iter(parts.values())).head(0)
    for name in PARTS:
        write_csv(csv_dir / f"{name}.csv", parts.get(name, header))


def train(folder: Path, csv_dir: Path, options: Mapping[str, object]) -> Path:
    """Train in `folder`/model_save, going on where a run was cut off; the best checkpoint."""
    given = {"csv_dir": csv_dir, "save_dir": folder / "model_save", "resume": True, "keep": 1, **options}
    run_script("train.py", *arguments(given), log=folder / "log.txt")
    return folder / "model_save" / "checkpoint.pt"


def evaluate(script: str, folder: Path, checkpoint: Path, csv_dir: Path, options: Mapping[str, object]) -> dict:
    """What test.py or open_set.py reports of a checkpoint; `folder` takes its files."""
    given = {"csv_dir": csv_dir, "results_dir": folder / "results", **options}
    run_script(script, str(checkpoint), *arguments(given), log=folder / "log.txt")
    report = {"test.py": "closed_set.json", "open_set.py": "open_set.json"}[script]
    return json.loads((results_folder(folder / "results", checkpoint) / report).read_text(encoding="utf-8"))


def remove_weights(folder: Path) -> None:
    """Delete the checkpoints of a run, which take many times the room of everything else."""
    for path in (folder / "model_save").glob("*.pt"):
        path.unlink()


def mean_std(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean and sample standard deviation of n values; None where a value is missing, and for the deviation of one."""
    n = len(values)
    if not n or None in values:
        return {"mean": None, "std": None, "n": n}
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if n > 1 else None, "n": n}


def format_mean_std(figure: Mapping[str, float | None]) -> str:
    """`0.912 ± 0.004`; without the deviation for a single value; a dash where there is none."""
    if figure["mean"] is None:
        return "-"
    return f"{figure['mean']:.3f}" + ("" if figure["std"] is None else f" ± {figure['std']:.3f}")


def describe(content: Mapping) -> str:
    """What a benchmark was measured on, as sentences: `data` of `make_split`, options, seeds and `machine`."""
    data, train_options = content["data"], " ".join(arguments(content["train"]))
    counts = ", ".join(f"{len(data[role])} {role}" for role in ("known", "valid_unseen", "unseen") if data.get(role))
    sentences = [f"Data: {data['source']}{f' ({counts} classes)' if counts else ''}."]
    if "simulate" in data:
        sentences.append(f"`simulate.py {' '.join(arguments(data['simulate']))}`.")
    sentences.append(f"`train.py {train_options}`, seeds {', '.join(map(str, content['seeds']))}.")
    sentences.append(f"{content['device']}, {content['threads']} threads, torch {content['torch']}.")
    return " ".join(sentences)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
