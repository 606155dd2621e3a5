import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import check_split
import csv_split
from common.cli import InputError
from loader.volume import write_volume
from tests.scripts import REPOSITORY, refuse, run_script, succeed

PARTS = ("train", "valid", "test")
FILES = (*PARTS, "valid_unseen", "unseen")


@pytest.fixture
def data(tmp_path):
    """particles.csv of 4 classes x 20 particles x 2 SNR copies in 10 tomograms, all rows naming one of two files."""
    rows = []
    for label in "abcd":
        for number in range(20):
            for level in ("003", "infinity"):
                rows.append((f"{label}{number}_{level}.mrc", label, level, f"{label}{number}", f"t{number // 2}"))
    table = pd.DataFrame(rows, columns=["Input Data", "Actual Label", "SNR Level", "Particle", "Tomogram"])
    (tmp_path / "data_").mkdir()
    table.to_csv(tmp_path / "data_" / "particles.csv", index=False)
    return tmp_path


def split(folder, **options):
    options = {"data_dir": str(folder / "data_"), "csv_dir": str(folder / "csv_split"), **options}
    csv_split.main(csv_split.Config(**options))
    return {name: pd.read_csv(folder / "csv_split" / f"{name}.csv", dtype=str) for name in FILES}


def test_every_volume_is_on_one_side_and_every_particle_whole(data):
    files = split(data, unseen=("d",), valid_unseen=("c",))
    together = pd.concat([table.assign(File=name) for name, table in files.items()])
    assert len(together) == 4 * 20 * 2
    assert not together["Input Data"].duplicated().any()
    assert together.groupby("Particle")["File"].nunique().eq(1).all()


def test_known_classes_are_stratified_and_numbered_and_held_out_ones_are_minus_1(data):
    files = split(data, unseen=("d",), valid_unseen=("c",))
    for part, count in zip(PARTS, (12, 2, 6), strict=True):
        assert files[part].groupby("Actual Label")["Particle"].nunique().to_dict() == {"a": count, "b": count}
        assert set(map(tuple, files[part][["Actual Label", "Class"]].to_numpy())) == {("a", "0"), ("b", "1")}
    assert set(files["unseen"]["Actual Label"]) == {"d"}
    assert set(files["valid_unseen"]["Actual Label"]) == {"c"}
    assert set(files["unseen"]["Class"]) | set(files["valid_unseen"]["Class"]) == {"-1"}


def test_without_held_out_classes_the_unseen_files_are_headers_only(data):
    files = split(data)
    assert len(files["unseen"]) == len(files["valid_unseen"]) == 0
    assert list(files["unseen"].columns) == list(files["train"].columns)
    assert list(files["train"].columns)[:5] == [
        "Input Data", "Segmentation Ground Truth", "Class", "SNR Level", "Actual Label"
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_split_and_another_seed_another(data):
    first, second, third = split(data), split(data), split(data, seed=1)
    assert first["train"].equals(second["train"])
    assert not first["train"].equals(third["train"])


def test_classes_choose_and_order_the_known(data):
    files = split(data, classes=("c", "a"), unseen=("d",))
    assert set(map(tuple, files["train"][["Actual Label", "Class"]].to_numpy())) == {("c", "0"), ("a", "1")}
    assert set(files["unseen"]["Actual Label"]) == {"d"}


def test_tomograms_stay_whole_when_asked(data):
    files = split(data, by_tomogram=True)
    sides = pd.concat([table.assign(File=name) for name, table in files.items()]).groupby("Tomogram")["File"].nunique()
    assert sides.eq(1).all()
    counts = [files[part]["Tomogram"].nunique() for part in PARTS]
    assert counts == [6, 1, 3]


def test_held_out_classes_may_share_tomograms_with_the_known_which_share_none_between_them(data):
    files = split(data, by_tomogram=True, unseen=("d",), valid_unseen=("c",))
    for table in files.values():
        for name in table["Input Data"]:
            (data / "csv_split" / name).touch()
    cfg = check_split.Config(csv_dir=str(data / "csv_split"), volumes=False, by_tomogram=True)
    check_split.main(cfg)
    tomogram = files["train"]["Tomogram"].iloc[0]
    assert tomogram in set(files["unseen"]["Tomogram"])
    path = data / "csv_split" / "test.csv"
    files["test"].assign(Tomogram=tomogram).to_csv(path, index=False)
    with pytest.raises(InputError, match=f": tomogram {tomogram}: on 2 sides: train, test$"):
        check_split.main(cfg)


def test_tomograms_that_are_torn_apart_are_said_in_one_line(data, capsys):
    split(data)
    line = "the particles are of 10 tomograms, and those of one tomogram share its noise: "
    assert capsys.readouterr().out.count(line) == 1
    split(data, by_tomogram=True)
    said = capsys.readouterr().out
    assert line not in said
    assert (
        "fractions with whole tomograms: train 0.6, valid 0.1, test 0.3; wished: train 0.6, valid 0.1, test 0.3" in said
    )
    path = data / "data_" / "particles.csv"
    pd.read_csv(path, dtype=str).assign(Tomogram="t1").to_csv(path, index=False)
    split(data)
    assert line not in capsys.readouterr().out


def test_fractions_in_steps_of_a_twentieth_are_reached_by_tomogram(data):
    path = data / "data_" / "particles.csv"
    table = pd.read_csv(path, dtype=str)
    table.assign(Tomogram=table["Particle"].str[1:]).to_csv(path, index=False)  # twenty
    files = split(data, by_tomogram=True, fractions=(0.7, 0.15, 0.15))
    assert [files[part]["Tomogram"].nunique() for part in PARTS] == [14, 3, 3]


def test_fewer_tomograms_than_ten_can_be_split(data):
    path = data / "data_" / "particles.csv"
    table = pd.read_csv(path, dtype=str)
    table.assign(Tomogram=[f"t{int(name[1:]) % 4}" for name in table["Particle"]]).to_csv(path, index=False)
    files = split(data, by_tomogram=True)
    assert [files[part]["Tomogram"].nunique() for part in PARTS] == [2, 1, 1]


def test_a_name_of_5000_characters_is_one_line(data):
    path = data / "data_" / "particles.csv"
    table = pd.read_csv(path, dtype=str)
    table["Input Data"] = ["x" * 5000 + name for name in table["Input Data"]]
    table.to_csv(path, index=False)
    split(data)
    with pytest.raises(InputError, match=r"train\.csv, line 2: Input Data .*x{50,}\.\.\.x{50,}.*: no such file$"):
        check_split.main(check_split.Config(csv_dir=str(data / "csv_split")))


@pytest.mark.parametrize("script", ["csv_split.py", "check_split.py", "extract.py"])
def test_help_imports_nothing_that_is_slow(script):
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / script), "--help"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    assert "pandas" in imported
    assert not imported & {"torch", "gemmi", "sklearn", "scipy", "zarr", "matplotlib", "umap"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": ("zzz",)}, "no class 'zzz'; found a, b, c, d"),
        ({"unseen": ("a",), "valid_unseen": ("a",)}, "share a"),
        ({"unseen": ("a", "b", "c")}, "fewer than two known classes"),
        ({"fractions": (0.5, 0.1, 0.1)}, "--fractions"),
        ({"fractions": (float("nan"), 0.5, 0.5)}, "--fractions"),
        ({"fractions": (0.5, 0.5, float("nan"))}, "--fractions"),
        ({"fractions": (0.5, float("inf"), 0.5)}, "--fractions"),
        ({"per_class": 0}, "--per-class 0"),
        ({"data_dir": "nowhere"}, "nowhere: no such folder"),
        ({"star": "none.star"}, "none.star: no such file"),
    ],
)
def test_a_mistake_is_named_and_writes_nothing(data, options, message):
    with pytest.raises(InputError, match=message):
        split(data, **options)
    assert not (data / "csv_split").exists()


def test_only_a_held_out_class_may_be_named_unknown(data):
    path = data / "data_" / "particles.csv"
    pd.read_csv(path, dtype=str).replace({"Actual Label": {"d": "unknown"}}).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"particles\.csv: a known class is named 'unknown', .*; rename it"):
        split(data)
    assert not (data / "csv_split").exists()
    assert set(split(data, unseen=("unknown",))["unseen"]["Actual Label"]) == {"unknown"}


def test_a_mistake_is_one_line_on_the_terminal(data):
    assert refuse("csv_split.py", "--unseen", "zzz", cwd=data).startswith("csv_split.py: error: data_/particles.csv:")
    assert not (data / "csv_split").exists()


def test_who_stops_reading_ends_the_script_without_a_word_and_with_its_files_written(data):
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, str(REPOSITORY / "csv_split.py")]
    done = subprocess.run(command, cwd=data, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    assert {path.stem for path in (data / "csv_split").iterdir()} == set(FILES)


def test_counts_are_said_in_the_singular_and_the_plural(capsys, data):
    split(data, unseen=("d",))
    said = " ".join(capsys.readouterr().out.split())
    assert "unseen.csv 1 class 20 particles 40 volumes" in said
    assert "valid_unseen.csv 0 classes 0 particles 0 volumes" in said


def test_volumes_that_the_labels_leave_out_are_warned_of(data, capsys):
    for name in ("ribosome", "data1_SNR003/subtomogram_mrc"):
        write_volume(data / "data_" / name / "tomotarget0.mrc", np.ones((4, 4, 4), dtype=np.float32), 10.0)
    split(data)
    line = capsys.readouterr().err.strip()
    assert ": warning: the labels are those of " in line
    assert (
        "particles.csv; left out, as it names none of their volumes: data1_SNR003/subtomogram_mrc, ribosome in " in line
    )
    assert line.endswith("give it with --data-dir")


def test_a_single_held_out_class_says_what_cannot_be_measured(data, capsys):
    split(data, unseen=("d",))
    said = capsys.readouterr().out
    assert said.count("unseen.csv holds one class, d: whether it is told from the known can be measured, ") == 1
    split(data, unseen=("c", "d"))
    assert "holds one class" not in capsys.readouterr().out


def test_a_class_folder_without_files_is_warned_of(tmp_path, capsys):
    for name in ("ribosome/1.mrc", "ribosome/2.mrc", "ribosome/3.mrc", "other/1.mrc", "other/2.mrc", "other/3.mrc"):
        write_volume(tmp_path / "data_" / name, np.ones((4, 4, 4), dtype=np.float32), 10.0)
    split(tmp_path)
    assert capsys.readouterr().err == ""
    for name in ("proteasome", "nested/inside", ".hidden"):
        (tmp_path / "data_" / name).mkdir(parents=True)
    split(tmp_path)
    line = capsys.readouterr().err.strip()
    assert "data_: folders without an MRC file of their own (.mrc, " in line
    assert line.endswith(" are no classes: nested, proteasome")


def test_masks_that_the_labels_name_are_not_left_out(data, capsys):
    path = data / "data_" / "particles.csv"
    table = pd.read_csv(path, dtype=str)
    for column, folder in (("Input Data", "vols"), ("Segmentation Ground Truth", "masks")):
        table[column] = [f"{folder}/{number}.mrc" for number in range(len(table))]
        write_volume(data / "data_" / folder / "0.mrc", np.ones((4, 4, 4), dtype=np.float32), 10.0)
    table.to_csv(path, index=False)
    split(data)
    assert capsys.readouterr().err == ""


def test_a_data_set_that_is_taken_whole_is_not_warned_of(workspace, tmp_path, capsys):
    options = {"data_dir": str(workspace / "data_"), "csv_dir": str(tmp_path / "split")}
    csv_split.main(csv_split.Config(**options))
    assert capsys.readouterr().err == ""


def test_a_class_with_fewer_than_three_particles_is_named(data):
    path = data / "data_" / "particles.csv"
    table = pd.read_csv(path)
    table[~table["Particle"].isin([f"b{number}" for number in range(18)])].to_csv(path, index=False)
    with pytest.raises(InputError, match="class b has 2 particles; expected at least 3"):
        split(data)


def test_a_class_with_three_particles_has_one_in_each_part(data):
    path = data / "data_" / "particles.csv"
    table = pd.read_csv(path)
    table[~table["Particle"].isin([f"b{number}" for number in range(17)])].to_csv(path, index=False)
    files = split(data)
    assert [files[part].query("`Actual Label` == 'b'")["Particle"].nunique() for part in PARTS] == [1, 1, 1]


@pytest.fixture
def copied_split(workspace, tmp_path):
    """The workspace's split with absolute paths, to be spoilt."""
    tables = {name: pd.read_csv(workspace / "csv_split" / f"{name}.csv", dtype=str) for name in FILES}
    for name, table in tables.items():
        for column in ("Input Data", "Segmentation Ground Truth"):
            table[column] = [str((workspace / "csv_split" / path).resolve()) for path in table[column]]
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path, tables


def found_in(folder):
    with pytest.raises(InputError) as caught:
        check_split.main(check_split.Config(csv_dir=str(folder)))
    return str(caught.value)


def test_a_good_split_passes_with_a_table(workspace):
    output = succeed("check_split.py", cwd=workspace)
    assert "no leak, no bad file" in output
    assert "complex05" in output


def test_the_table_has_the_known_classes_first_then_those_held_out(capsys, data):
    for table in split(data, unseen=("a",), valid_unseen=("b",)).values():
        for name in table["Input Data"]:
            (data / "csv_split" / name).touch()
    check_split.main(check_split.Config(csv_dir=str(data / "csv_split"), volumes=False))
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines if line.startswith(("a ", "b ", "c ", "d ", "particles", "volumes"))]
    assert names == ["c", "d", "b", "a", "particles", "volumes, SNR 0.03", "volumes, no noise"]


def test_a_particle_on_two_sides_is_a_leak(copied_split):
    folder, tables = copied_split
    pd.concat([tables["test"], tables["train"].head(1)]).to_csv(folder / "test.csv", index=False)
    text = found_in(folder)
    assert "on 2 sides: train, test" in text
    assert "stands 2 times in the split" in text


def test_a_held_out_class_among_the_known_is_a_leak(copied_split):
    folder, tables = copied_split
    tables["unseen"].assign(**{"Actual Label": "complex00"}).to_csv(folder / "unseen.csv", index=False)
    assert "unseen.csv: class complex00 is also known" in found_in(folder)


def test_bad_volumes_and_masks_are_named(copied_split):
    folder, tables = copied_split
    flat, small = folder / "flat.mrc", folder / "small.mrc"
    write_volume(flat, np.ones((16, 16, 16), dtype=np.float32), 20.0)
    write_volume(small, np.ones((8, 8, 8), dtype=np.int8), 20.0)
    broken = tables["valid"].copy()
    broken.loc[0, "Input Data"] = str(flat)
    broken.loc[1, "Segmentation Ground Truth"] = str(small)
    broken.to_csv(folder / "valid.csv", index=False)
    text = found_in(folder)
    assert "flat.mrc: the volume is constant" in text
    assert "small.mrc: not of the (16, 16, 16) voxels of its subtomogram" in text
    flat.write_bytes(flat.read_bytes()[:2000])
    assert "flat.mrc: not a readable MRC file" in refuse_lines(folder)


def refuse_lines(folder):
    done = run_script("check_split.py", "--csv-dir", ".", cwd=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_checking_tomograms_that_are_not_stated_is_one_line(workspace, tmp_path):
    folder = tmp_path / "csv_split"
    folder.mkdir()
    for path in (workspace / "csv_split").glob("*.csv"):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="Tomogram")
        rows["Input Data"] = [str((path.parent / name).resolve()) for name in rows["Input Data"]]
        rows["Segmentation Ground Truth"] = ""
        rows.to_csv(folder / path.name, index=False)
    assert "no column Tomogram; --by-tomogram needs it" in refuse("check_split.py", "--by-tomogram", cwd=tmp_path)
