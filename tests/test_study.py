"""What the benchmarks share: commands, means, tables, the machine, jobs that are done once, scripts as processes."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro

from benchmarks import (
    class_diversity,
    clusters,
    contrast,
    enrol_structures,
    faults,
    fine_tune,
    hard_set,
    levers,
    loss_options,
    loss_speed,
    losses,
    machine,
    packing,
    predict_speed,
    recipes,
    select_score,
    sets,
    shapes,
    simulation_speed,
    speed,
    stream,
    study,
    template_matching,
    thresholds,
)
from benchmarks.study import RESULTS, ScriptError
from common.cli import REPOSITORY, InputError

MODULES = (
    class_diversity, clusters, contrast, enrol_structures, faults, fine_tune, hard_set, levers, loss_options,
    loss_speed, losses, packing, predict_speed, recipes, select_score, sets, shapes, simulation_speed, speed, stream,
    template_matching, thresholds,
)  # fmt: skip


def test_options_become_a_command_line():
    options = {
        "per_class": 5,
        "snr": "0.1 inf",
        "data_dir": Path("a b"),
        "crop": True,
        "umap": False,
        "names": ("x", "y"),
    }
    words = ["--per-class", "5", "--snr", "0.1", "inf", "--data-dir", "a b", "--crop", "--no-umap", "--names", "x", "y"]
    assert study.arguments(options) == words


def test_mean_and_deviation_are_those_of_a_sample():
    assert study.mean_std([0.8, 0.9, 1.0]) == {"mean": pytest.approx(0.9), "std": pytest.approx(0.1), "n": 3}
    assert study.format_mean_std(study.mean_std([0.8, 0.9, 1.0])) == "0.900 ± 0.100"
    assert study.format_mean_std(study.mean_std([0.8125])) == "0.812"
    assert study.format_mean_std(study.mean_std([0.8, None])) == study.format_mean_std(study.mean_std([])) == "-"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_each_committed_table_is_that_of_the_figures_beside_it(path):
    module = next(each for each in MODULES if path.stem.startswith(each.__name__.removeprefix("benchmarks.")))
    assert module.page(json.loads(path.read_text())) == path.with_suffix(".md").read_text()


def test_a_table_says_which_network_it_is_of_where_old_settings_do_not():
    machine_text = {"device": "x", "threads": 1, "torch": "2"}
    content = {"data": {"source": "files"}, "train": {"width": "8"}, "seeds": [9], **machine_text}
    assert "`train.py --width 8 --backbone resnet`" in study.describe(study.with_network(content))
    assert content["train"] == {"width": "8"}
    content["train"] = {"backbone": "resnet_pool", "width": "8"}
    assert "`train.py --backbone resnet_pool --width 8`" in study.describe(study.with_network(content))


@pytest.mark.parametrize("module", [losses, class_diversity])
def test_the_tables_of_benchmarks_that_train_one_network_name_it(module):
    pages = [*RESULTS.glob(f"{module.__name__.removeprefix('benchmarks.')}*.md")]
    assert pages and all(re.search(r"`train\.py [^`]*--backbone \w+", page.read_text()) for page in pages)


def test_the_command_beside_a_table_gives_its_settings_again_without_places():
    cfg = losses.Config(
        structures="/home/me/pdb", quick=True, work_dir="elsewhere", seeds=(9,), rows=("softmax", "lmcl"),
        train_options={"width": "16", "backbone": "resnet_pool"}, results="x", device="cpu",
    )  # fmt: skip
    line = study.command(cfg, "losses")
    python, flag, module, *words = shlex.split(line)
    assert (python, flag, module) == ("python", "-m", "benchmarks.losses")
    places = {"work_dir": cfg.work_dir, "results": cfg.results, "device": cfg.device}
    assert replace(tyro.cli(losses.Config, args=words), **places) == replace(cfg, structures="structures")


def test_a_command_names_what_has_no_default_and_says_no_place():
    cfg = hard_set.Config("/home/me/checkpoint.pt", hard_checkpoint="/home/me/hard.pt", shift=3.0, data_dir="elsewhere")
    words = "CHECKPOINT --hard-checkpoint hard_checkpoint --data-dir data_dir --shift 3.0"
    assert study.command(cfg, "hard_set") == f"python -m benchmarks.hard_set {words}"


def test_the_speed_of_a_machine_stands_beside_its_figures(monkeypatch):
    monkeypatch.setattr(machine, "MATRIX_SIDE", 512)
    threads = torch.get_num_threads()
    found = machine.record(torch.device("cpu"))
    assert torch.get_num_threads() == threads and 0 < found["matrix_seconds"] < 1
    assert f"{found['matrix_side']}^2 float32 matrices on one thread" in machine.text(found)


def test_a_folder_without_the_scripts_is_no_checkout_to_measure(tmp_path):
    with pytest.raises(InputError, match=r"--repository .*: no check_split.py there; expected a checkout"):
        packing.main(packing.Config(repository=str(tmp_path)))


def test_a_finished_job_is_not_repeated_nor_taken_for_another(tmp_path):
    path = tmp_path / "result.json"
    assert study.once(path, {"seed": 1, "sizes": (1, 2)}, lambda: {"auc": 0.5}) == {"auc": 0.5}
    assert study.once(path, {"seed": 1, "sizes": (1, 2)}, lambda: {"auc": 0.9}) == {"auc": 0.5}
    with pytest.raises(InputError, match=r"other settings \(seed\); give another --work-dir"):
        study.once(path, {"seed": 2, "sizes": (1, 2)}, dict)


def test_a_script_that_fails_is_named_with_its_last_line_and_log(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "REPOSITORY", tmp_path)
    (tmp_path / "bad.py").write_text("print('one')\nraise SystemExit('two')\n")
    log = tmp_path / "folder" / "log.txt"
    with pytest.raises(ScriptError, match=r"bad.py ended with exit code 1: two; .*log.txt"):
        study.run_script("bad.py", "--seed", "3", log=log)
    assert log.read_text().splitlines() == ["$ bad.py --seed 3", "one", "two"]


def test_a_script_ends_with_the_benchmark_that_is_asked_to(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log.txt"
    text = (
        "from pathlib import Path\nfrom benchmarks import machine, study\n"
        f"study.REPOSITORY = Path({str(tmp_path)!r})\nstudy.run_script('slow.py', log=Path({str(log)!r}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", text], cwd=REPOSITORY) as benchmark:
        deadline = time.monotonic() + 60
        while not (log.is_file() and "started" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        benchmark.terminate()
        assert benchmark.wait(60) == 128 + signal.SIGTERM
    assert log.read_text().splitlines()[-1] == "saved"


def test_without_structures_as_many_procedural_classes_take_the_same_parts():
    procedural, real = study.class_set(""), study.class_set("structures")
    for role in ("known", "valid_unseen", "unseen"):
        assert len(getattr(procedural, role)) == len(getattr(real, role))
    assert len(set(procedural.names)) == 24
