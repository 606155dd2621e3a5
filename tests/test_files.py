"""Files are written whole; a results folder is of one checkpoint."""

import shutil

import pytest

from common.cli import InputError
from common.files import claim_results, results_folder, write_text


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
