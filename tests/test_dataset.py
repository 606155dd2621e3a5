from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from common.cli import InputError
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR
from loader.dataset import Dataset_subtomo, load_split, mask_sizes, on_device, overlap_warning, particle_codes
from loader.rows import class_names, read_split
from loader.volume import write_volume

BOX = 4


@pytest.fixture
def split(tmp_path):
    """Three volumes with masks of 1, 2 and 3 voxels, and their CSV in a folder beside."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        write_volume(tmp_path / "data" / f"v{number}.mrc", 5 + 2 * rng.normal(size=(BOX,) * 3).astype(np.float32), 10.0)
        mask = np.zeros((BOX,) * 3, dtype=np.int8)
        mask.flat[: number + 1] = 1
        write_volume(tmp_path / "data" / f"m{number}.mrc", mask, 10.0)
        rows.append(
            (f"../data/v{number}.mrc", f"../data/m{number}.mrc", number % 2, "003", "ab"[number % 2], f"p{number}")
        )
    path = tmp_path / "csv" / "train.csv"
    path.parent.mkdir()
    pd.DataFrame(rows, columns=[INPUT, MASK, CLASS, SNR, LABEL, PARTICLE]).to_csv(path, index=False)
    return path


def change(path, column, value, row=0):
    table = pd.read_csv(path, dtype=str)
    table.loc[row, column] = value
    table.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classification", {"image", "name", "class"}),
        ("segmentation", {"image", "name", "mask"}),
        ("all", {"image", "name", "class", "mask"}),
    ],
)
def test_an_item_is_a_sample_of_its_task_and_a_path(split, task, keys):
    sample, path = Dataset_subtomo(split, task)[1]
    assert sample.keys() == keys
    assert path.endswith("v1.mrc")
    assert sample["image"].shape == (1, BOX, BOX, BOX)
    assert sample["image"].mean().item() == pytest.approx(0, abs=1e-5)
    assert sample["name"] == "b"
    if "class" in keys:
        assert sample["class"] == 1
    if "mask" in keys:
        assert sample["mask"].sum() == 2


def test_samples_make_batches(split):
    samples, paths = next(iter(torch.utils.data.DataLoader(Dataset_subtomo(split, "all"), batch_size=3)))
    assert samples["image"].shape == (3, 1, BOX, BOX, BOX)
    assert samples["class"].tolist() == [0, 1, 0]
    assert len(paths) == 3


def test_masks_are_needed_for_segmentation_only(split):
    change(split, MASK, "")
    assert len(Dataset_subtomo(split, "classification")) == 3
    for task in ("segmentation", "all"):
        with pytest.raises(InputError, match=r"the mask of .*v0\.mrc is not given"):
            Dataset_subtomo(split, task)
    with pytest.raises(ValueError, match="task"):
        Dataset_subtomo(split, "other")


def test_a_loaded_split_holds_what_the_data_set_serves(split):
    loaded = load_split(split)
    items = Dataset_subtomo(split)
    assert loaded.images.dtype == torch.float16
    assert loaded.labels.tolist() == [0, 1, 0]
    for index in range(3):
        torch.testing.assert_close(loaded.images[index].float(), items[index][0]["image"], atol=2e-3, rtol=0)
    assert loaded.preprocessing.box == BOX
    assert loaded.preprocessing.voxel_size == pytest.approx(10)
    assert loaded.intensity[:, 0] == pytest.approx(5, abs=1.5)
    assert loaded.intensity[:, 2].max() < loaded.intensity[:, 3].min()


def test_dark_particles_are_turned_bright(split):
    torch.testing.assert_close(load_split(split, contrast="dark").images, -load_split(split).images)
    with pytest.raises(InputError, match="--contrast grey"):
        load_split(split, contrast="grey")


def test_a_data_set_can_be_moved(split, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "data").rename(moved / "data")
    (tmp_path / "csv").rename(moved / "csv")
    assert len(load_split(moved / "csv" / "train.csv")) == 3


@pytest.mark.parametrize("column", [INPUT, MASK, CLASS, SNR, LABEL])
def test_a_missing_column_is_named(split, column):
    pd.read_csv(split, dtype=str).drop(columns=column).to_csv(split, index=False)
    with pytest.raises(InputError, match=f"no column {column}"):
        read_split(split)


@pytest.mark.parametrize("number", ["1.0", "one", "", "99999999999999999999", "-12345678901"])
def test_a_class_that_is_no_number_of_nine_digits_is_refused_with_its_line(split, number):
    change(split, CLASS, number, row=1)
    with pytest.raises(InputError, match=r"train\.csv, line 3: .*expected a whole number of at most nine digits$"):
        read_split(split)


def test_a_split_of_the_original_code_is_recognised(split):
    pd.read_csv(split, dtype=str).drop(columns=PARTICLE).to_csv(split, index=False)
    with pytest.raises(InputError, match=r"split of the original code; make it again: csv_split\.py"):
        read_split(split)


def test_a_split_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match=r"train\.csv: no such file; make it with csv_split\.py"):
        read_split(tmp_path / "train.csv")


def test_a_file_that_is_not_there_is_named_with_its_line(split):
    change(split, INPUT, "../data/none.mrc", row=1)
    with pytest.raises(InputError, match=r"train\.csv, line 3: .*none\.mrc: no such file"):
        read_split(split)


def test_volumes_of_two_sizes_are_refused(split, tmp_path):
    write_volume(tmp_path / "data" / "v1.mrc", np.random.default_rng(0).random((6, 6, 6)).astype(np.float32), 10.0)
    with pytest.raises(InputError, match=r"v1\.mrc: a volume of \(6, 6, 6\) voxels .* expected \(4, 4, 4\)"):
        load_split(split)


def test_volumes_of_another_voxel_size_than_the_checkpoint_are_refused(split):
    preprocessing = replace(load_split(split).preprocessing, voxel_size=13.5)
    with pytest.raises(InputError, match=r"v0\.mrc: voxels of 10 A; expected 13\.5 A"):
        load_split(split, preprocessing)


def test_a_tilt_range_counts_only_where_all_rows_agree(split):
    table = pd.read_csv(split, dtype=str)
    assert load_split(split).preprocessing.tilt_range is None
    table.assign(**{"Tilt Min": "-60", "Tilt Max": "60"}).to_csv(split, index=False)
    assert load_split(split).preprocessing.tilt_range == (-60, 60)
    table.assign(**{"Tilt Min": ["-60", "-50", "-60"], "Tilt Max": "60"}).to_csv(split, index=False)
    assert load_split(split).preprocessing.tilt_range is None


def test_a_header_alone_is_a_split_of_no_volume(split):
    pd.read_csv(split, dtype=str).iloc[:0].to_csv(split, index=False)
    assert len(load_split(split)) == 0


def test_class_names_need_one_name_for_each_index(split):
    assert class_names(read_split(split), split) == ["a", "b"]
    change(split, LABEL, "c")
    with pytest.raises(InputError, match="expected one name for each"):
        class_names(read_split(split), split)


def test_a_known_class_that_could_not_be_told_from_a_rejection_is_refused(split):
    rows = read_split(split).replace({LABEL: {"b": "unknown"}})
    with pytest.raises(InputError, match=r"train\.csv: a known class is named 'unknown', .*; rename it"):
        class_names(rows, split)


def test_mask_sizes_count_voxels_or_are_unknown(split):
    assert mask_sizes(read_split(split)).tolist() == [1, 2, 3]
    change(split, MASK, "")
    assert mask_sizes(read_split(split)) is None


@pytest.mark.parametrize("column", ["Voxel Size", "Tilt Min"])
def test_a_cell_that_is_no_number_is_named(split, column):
    rows = pd.read_csv(split, dtype=str, keep_default_na=False)
    rows["Tilt Min"], rows["Tilt Max"] = "-60", "60"
    rows[column] = ["10", "ten", "10"]
    rows.to_csv(split, index=False)
    with pytest.raises(InputError, match=rf"train\.csv, line 3: {column} 'ten'; expected a number in (A|degrees)"):
        load_split(split)


def test_a_voxel_size_in_the_table_goes_before_that_of_the_header_row_by_row(split):
    rows = pd.read_csv(split, dtype=str, keep_default_na=False)
    rows["Voxel Size"] = "20"  # the headers say 10
    rows.to_csv(split, index=False)
    assert load_split(split).preprocessing.voxel_size == 20
    rows["Voxel Size"] = ["20", "20", "5"]
    rows.to_csv(split, index=False)
    with pytest.raises(InputError, match=r"v2\.mrc: voxels of 5 A; expected 20 A"):
        load_split(split)


def test_particles_that_were_trained_on_are_recognised_by_name(split):
    rows = load_split(split).rows
    trained = particle_codes(rows.iloc[:2])
    assert len(trained.unique()) == rows["Particle"].iloc[:2].nunique()
    assert torch.equal(trained, particle_codes(rows.iloc[[1, 0]]))
    assert "test.csv: " in overlap_warning(rows, trained, "test.csv")
    assert overlap_warning(rows.iloc[2:], trained, "test.csv") == ""


def test_packed_volumes_are_widened_on_the_device_that_they_are_sent_to():
    images = torch.randn(3, 1, 4, 4, 4).half()
    sent = on_device(images, torch.device("cpu"))
    assert sent.dtype == torch.float32 and torch.equal(sent, images.float())
    assert on_device(images, torch.device("meta")).dtype == torch.float32
