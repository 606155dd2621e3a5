"""Files are written whole; a results folder is of one checkpoint."""

import os
import shutil
import subprocess
import sys

import pytest

from common.cli import REPOSITORY, InputError
from common.files import LOCK_FILE, alone_in, claim_results, results_folder, write_text


def test_checkpoints_of_two_folders_of_the_same_name_do_not_share_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = claim_results("results", "a/model_save/checkpoint.pt")
    assert str(folder) == "results/model_save-checkpoint" and folder.is_dir()
    with pytest.raises(InputError) as refused:
        results_folder("results", "b/model_save/checkpoint.pt")
    (line,) = str(refused.value).splitlines()
    for part in (tmp_path / "a/model_save/checkpoint.pt", tmp_path / "b/model_save/checkpoint.pt", "--results-dir"):
        assert str(part) in line
    with pytest.raises(InputError, match="holds the results of"):
        claim_results("results", "b/model_save/checkpoint.pt")
    assert claim_results("other", "b/model_save/checkpoint.pt") != folder


def test_the_same_checkpoint_finds_its_results_again_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "model_save").mkdir(parents=True)
    folder = claim_results("results", "a/model_save/checkpoint.pt").resolve()
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "a")
    for name in (
        "model_save/checkpoint.pt",
        "../link/model_save/checkpoint.pt",
        str(tmp_path / "a/model_save/checkpoint.pt"),
    ):
        assert results_folder("../results", name).resolve() == folder


def test_results_move_with_their_checkpoint(tmp_path):
    claim_results(tmp_path / "one" / "results", tmp_path / "one" / "model_save" / "checkpoint.pt")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    results_folder(tmp_path / "two" / "results", tmp_path / "two" / "model_save" / "checkpoint.pt")


def test_results_of_before_the_record_are_taken_over(tmp_path):
    write_text(tmp_path / "results" / "model_save-last" / "closed_set.json", "{}")
    folder = claim_results(tmp_path / "results", tmp_path / "model_save" / "last.pt")
    assert (folder / "closed_set.json").is_file()


def test_a_folder_is_one_writers_at_a_time_and_an_empty_one_leaves_nothing(tmp_path):
    folder = tmp_path / "results" / "one"
    with alone_in(folder, "wait"):
        message = f"one: process {os.getpid()} on .*expected one at a time: wait"
        with pytest.raises(InputError, match=message), alone_in(folder, "wait"):
            pass
        assert (folder / LOCK_FILE).is_file()
    assert not (tmp_path / "results").exists()
    with alone_in(folder, "wait"):
        write_text(folder / "written", "")
    assert [path.name for path in folder.iterdir()] == ["written"]


def test_a_process_that_was_killed_lets_its_folder_go(tmp_path):
    code = "import pathlib, sys\nfrom common.files import alone_in\n"
    code += "with alone_in(pathlib.Path(sys.argv[1]), ''):\n    print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {process.pid} on"), alone_in(tmp_path, ""):
            pass
        process.kill()
    assert (tmp_path / LOCK_FILE).is_file()
    with alone_in(tmp_path, ""):
        pass
    assert not (tmp_path / LOCK_FILE).exists()
