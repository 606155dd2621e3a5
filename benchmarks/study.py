"""What the benchmarks share: data, networks that are trained once, mean and deviation over seeds, results."""

import json
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import count, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from benchmarks import machine
from common.cli import REPOSITORY, Device, InputError, choose_device, plural
from common.files import results_folder, write_csv, write_json, write_text
from simulation.class_sets import CLASS_SETS, ClassSet
from simulation.structures import procedural_name


class ScriptError(InputError):
    """A script that ended with an error."""


RESULTS = REPOSITORY / "benchmarks" / "results"
PARTS = ("train", "valid", "test", "valid_unseen", "unseen")  # the files of a split
SETS = ("valid_unseen", "unseen")  # those of them that open_set.py reports on
# figures of such a set, with the column's head
MEASURES = {"auc": "pair AUC", "eer": "EER", "val": "VAL at FAR 1e-2", "auroc": "rejection AUROC", "oscr": "OSCR"}
BRIEF = {"bootstrap": 1, "umap": False, "discovery": False, "floors": False}  # of open_set.py: these figures alone
PLACES = ("structures", "csv_dir", "data_dir", "hard_checkpoint")  # options that a command gives by their names
NONE = MappingProxyType({})


@dataclass(frozen=True)
class Size:
    """How much data and training: options of simulate.py and of train.py."""

    simulate: dict[str, str]
    train: dict[str, str]


PLAIN = {"backbone": "resnet"}  # one network for all of them, so that their tables compare with each other
FULL = Size({"per_class": "500"}, {"width": "64", "epochs": "30", **PLAIN})
QUICK = Size({"per_class": "120"}, {"width": "8", "epochs": "10", **PLAIN})


@dataclass(frozen=True)
class Study:
    """Options of every benchmark that trains networks on simulated data."""

    structures: str = ""  # folder of the benchmark's coordinate files; empty for procedural complexes
    quick: bool = False  # measure at the size for a CPU
    simulate_options: dict[str, str] = field(default_factory=dict)  # options of simulate.py over the size's: box 48
    train_options: dict[str, str] = field(default_factory=dict)  # options of train.py over the size's: width 16
    seeds: tuple[int, ...] = (9, 10, 11)  # seeds of weights, order and augmentation
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = ""  # folder for data, networks and logs; empty: bench/<name of the benchmark>
    results: str = ""  # files of the results, without endings; empty: benchmarks/results/<name>, or <name>_quick


@dataclass(frozen=True)
class Bench:
    """A benchmark at work: its options, folder and split, what it measures on, and where its results go."""

    cfg: Study
    work_dir: Path
    csv_dir: Path
    settings: dict
    stem: str

    def network(self, name: str, options: Mapping, made_on: Mapping, job: Callable[[Path], dict]) -> dict:
        """The figures of a network that `job(folder)` trains and measures in the folder `name`, once.

        They depend on the data, on these options of train.py, and on what else it is made on.
        """
        folder = self.work_dir / name

        def announced() -> dict:
            print(f"{name}: training", flush=True)
            return job(folder)

        found = once(folder / "result.json", {"data": self.settings["data"], **made_on, **options}, announced)
        for path in (folder / "model_save").glob("*.pt"):  # they take many times the room of everything else
            path.unlink()
        return found

    def train_and_measure(self, folder: Path, options: Mapping) -> dict:
        """Train in `folder` with these options of train.py; the figures of the best checkpoint."""
        device = {"device": self.cfg.device}
        checkpoint = train(folder, self.csv_dir, {**options, **device})
        closed = evaluate("test.py", folder, checkpoint, self.csv_dir, device)
        return figures(closed, evaluate("open_set.py", folder, checkpoint, self.csv_dir, device | BRIEF))

    def simulated_from(self) -> dict[str, Path]:
        """The options of train.py that say what the data were simulated from."""
        where = {"data_dir": self.work_dir / "data_"}
        return where | ({"structures": Path(self.cfg.structures).absolute()} if self.cfg.structures else {})


def command(cfg: Any, name: str) -> str:
    """The command line that measures again what `cfg` does: its options other than the default, without places.

    What has no default is given without its name.
    """
    given, positional = {}, []
    for option in fields(cfg):
        value = getattr(cfg, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if option.name in ("device", "work_dir", "results") or value == default:
            continue
        if default is MISSING:
            positional.append(option.name.upper())
            continue
        words = [str(word) for pair in value.items() for word in pair] if isinstance(value, dict) else value
        given[option.name] = option.name if option.name in PLACES else words
    return shlex.join(["python", "-m", f"benchmarks.{name}", *positional, *arguments(given)])


def begin(
    cfg: Study,
    name: str,
    classes: ClassSet,
    sizes: tuple[Size, Size] = (FULL, QUICK),
    csv_dir: str = "",
    split: Mapping[str, object] = NONE,
) -> Bench:
    """Make the data of the benchmark `name`, unless that is done or a split is given with `csv_dir`.

    `sizes` are those without and with --quick, `split` further options of csv_split.py.
    """
    size = sizes[cfg.quick]
    simulate = {**size.simulate, **cfg.simulate_options}
    work_dir = Path(cfg.work_dir or f"bench/{name}").absolute()
    if csv_dir:
        folder, data = Path(csv_dir).absolute(), {"source": "a split that was given"}
    else:
        folder, data = make_split(work_dir, classes, cfg.structures, cfg.device, simulate, split)
    settings = {"command": command(cfg, name), "data": data, "train": {**size.train, **cfg.train_options}}
    settings |= {"seeds": list(cfg.seeds), **machine.record(choose_device(cfg.device))}
    return Bench(cfg, work_dir, folder, settings, cfg.results or str(RESULTS / f"{name}{'_quick' * cfg.quick}"))


def figures(closed: dict, opened: dict) -> dict:
    """What the tables need of closed_set.json and open_set.json."""
    result = {"accuracy": closed["accuracy"], "n_test": closed["n"], "known": closed["classes"]}
    result["snr_convention"] = closed["snr_convention"]
    for name in (name for name in SETS if name in opened):
        part = opened[name]
        pairs, rejection = part["verification"]["unseen_unseen"], part["rejection"]
        score = rejection["scores"][rejection["default_score"]]
        result[name] = {
            **{key: pairs[key] for key in ("auc", "eer", "n_same", "n_different")},
            "val": pairs["val_at_far"]["0.01"]["value"] if pairs["val_at_far"] else None,
            **{key: score[key] for key in ("auroc", "oscr")},
            "score": rejection["default_score"],
            **{key: part[key] for key in ("classes", "n")},
        }
    return result


def over_seeds(finished: Sequence[dict]) -> dict:
    """Mean and deviation of each of `figures` over networks that differ in their seed."""
    mean = {"accuracy": mean_std([each["accuracy"] for each in finished])}
    for part in SETS:
        if all(part in each for each in finished):
            mean[part] = {key: mean_std([each[part][key] for each in finished]) for key in MEASURES}
    return mean


def write_results(stem: Path | str, content: dict, text: str) -> None:
    """Write `<stem>.json` and `<stem>.md`."""
    write_json(f"{stem}.json", content)
    write_text(f"{stem}.md", text)


def show(stem: Path | str) -> None:
    """Print the page of a benchmark that has finished, and where it is."""
    print(f"{Path(f'{stem}.md').read_text(encoding='utf-8')}\nwritten: {stem}.json, {stem}.md", flush=True)


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
    split: Mapping[str, object] = NONE,
) -> tuple[Path, dict]:
    """Simulate a data set in `folder` and split it, unless that is done: where the split is, and what the data are.

    `simulate` and `split` are further options of simulate.py and csv_split.py.
    """
    source = "coordinate files" if structures else "procedural complexes"
    data = {"source": source, **asdict(classes), "simulate": dict(simulate), "split": dict(split)}
    data_dir, csv_dir = folder / "data_", folder / "csv_split"
    chosen = {"structures": Path(structures)} if structures else {}
    held_out = {name: names for name in ("unseen", "valid_unseen") if (names := getattr(classes, name))}

    def make() -> dict:
        print(f"making the data: {len(classes.names)} classes, {source}", flush=True)
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


def format_interval(figure: Sequence) -> str:
    """A value with its interval, `0.912 [0.900, 0.921]`; a whole number as it is, a dash where there is none."""
    value, low_high = figure
    if value is None or isinstance(value, int):
        return "-" if value is None else str(value)
    return f"{value:.3f}" + (f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else "")


def means_table(
    labels: Sequence[str], columns: Mapping[str, tuple[str, ...]], rows: Iterable[tuple[Sequence[str], Mapping]]
) -> list[str]:
    """The lines of a table of means and deviations, a dash where there is none.

    `labels` are the heads of the columns that name a row; `columns` say which keys lead to a figure in a row's figures.
    A column without a figure in any row is left out.
    """

    def cell(figure: Mapping, keys: tuple[str, ...]) -> str:
        for key in keys:
            figure = figure.get(key, {})
        return format_mean_std(figure) if figure else "-"

    rows = list(rows)
    texts = {head: [cell(figures, keys) for _, figures in rows] for head, keys in columns.items()}
    texts = {head: column for head, column in texts.items() if {*column} != {"-"}}
    cells = [[*names, *values] for (names, _), values in zip(rows, zip(*texts.values(), strict=True), strict=True)]
    return markdown_table([*labels, *texts], cells)


def with_network(content: Mapping) -> dict:
    """The content of a benchmark that trains PLAIN, where the settings of old results, made with it, do not say so."""
    missing = {name: value for name, value in PLAIN.items() if name not in content["train"]}
    return {**content, "train": {**content["train"], **missing}}


def describe(content: Mapping) -> str:
    """What a benchmark was measured on, as sentences: `data` of `make_split`, options, seeds and `machine.record`."""
    data, train_options = content["data"], " ".join(arguments(content["train"]))
    counts = ", ".join(f"{len(data[role])} {role}" for role in ("known", "valid_unseen", "unseen") if data.get(role))
    sentences = [f"Data: {data['source']}{f' ({counts} classes)' if counts else ''}."]
    if "simulate" in data:
        sentences.append(f"`simulate.py {' '.join(arguments(data['simulate']))}`.")
    seeds = f"{plural('seed', len(content['seeds']))} {', '.join(map(str, content['seeds']))}"
    return " ".join([*sentences, f"`train.py {train_options}`, {seeds}. {machine.text(content)}."])


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
