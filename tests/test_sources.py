import math

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from common.cli import InputError
from loader.columns import (
    INPUT,
    LABEL,
    MASK,
    PARTICLE,
    SNR,
    TOMOGRAM,
    VOXEL_SIZE,
    snr_code,
    snr_level,
    snr_order,
    snr_text,
    snr_value,
)
from loader.sources import absolute, absolute_all, read_csv, read_particles
from loader.volume import write_volume
from prediction.inputs import find_inputs

NAMES = ("aaa", "bbb")


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32), 10.0)
    return path


def read(folder, star="", per_class=2):
    return read_particles(folder, star, NAMES, per_class)[0]


def test_snr_levels_come_from_the_folder_name():
    assert [snr_level(f"data1_SNR{text}") for text in ("003", "005", "inf", "infinity")] == [
        "003", "005", "infinity", "infinity"
    ]  # fmt: skip
    assert snr_level("data") == ""


@pytest.mark.parametrize(
    ("snr", "code"),
    [(0.03, "003"), (0.1, "01"), (0.25, "025"), (1.0, "1"), (1.5, "1.5"), (10.0, "10"), (15.0, "15"), (1e-5, "000001"),
     (1 / 3, "03333333333333333"), (100.25, "100.25"), (1e22, "1" + 22 * "0"), (math.inf, "infinity")],
)  # fmt: skip
def test_the_code_of_an_snr_gives_its_value_back(snr, code):
    assert snr_code(snr) == code
    assert snr_value(snr_level(f"data1_SNR{code}")) == snr


def test_snr_levels_sort_by_value_and_words_come_last():
    levels = ["infinity", "high", "15", "003", "1.5", "", "01", "2", "10"]
    assert sorted(levels, key=snr_order) == ["003", "01", "1.5", "2", "10", "15", "infinity", "", "high"]


@pytest.mark.parametrize(
    ("level", "text"),
    [("003", "SNR 0.03"), ("01", "SNR 0.1"), ("05", "SNR 0.5"), ("1", "SNR 1"), ("10", "SNR 10"), ("0.03", "SNR 0.03"),
     ("1.5", "SNR 1.5"), ("15", "SNR 15"), ("infinity", "no noise"), ("inf", "no noise"), ("high", "SNR high"),
     ("0", "SNR 0"), ("", "SNR unknown")],
)  # fmt: skip
def test_people_read_an_snr_as_a_number(level, text):
    assert snr_text(level) == text


def test_names_of_digits_in_a_star_file_stay_text(tmp_path):
    make(tmp_path / "00255.mrc")
    labels = "_rlnTomoName #1\n_rlnImageName #2\n_rlnClassNumber #3\n_rlnLogLikelihood #4\n"
    (tmp_path / "a.star").write_text(f"data_particles\n\nloop_\n{labels}00255 00255.mrc 3 1.50\n")
    table = read(tmp_path, star=str(tmp_path / "a.star"))
    assert list(table[TOMOGRAM]) == ["00255"] and list(table[LABEL]) == ["class003"]
    assert list(table["rlnLogLikelihood"]) == ["1.50"]


def test_a_star_file_of_2d_stacks_is_refused_with_what_to_give_instead(tmp_path):
    particles = pd.DataFrame({"rlnImageName": ["1_stack2d.mrcs"], "rlnClassNumber": [1]})
    starfile.write({"general": {"rlnTomoSubTomosAre2DStacks": 1}, "particles": particles}, tmp_path / "a.star")
    with pytest.raises(InputError, match=r"a\.star: its particles are 2-D stacks .* and the tomograms to extract\.py"):
        read(tmp_path, star=str(tmp_path / "a.star"))


@pytest.mark.parametrize("block", ["optics", "particles"])
def test_a_star_file_of_images_of_two_dimensions_is_refused_though_they_look_like_cubes(block, tmp_path):
    with mrcfile.new(tmp_path / "1_stack2d.mrcs") as mrc:
        mrc.set_data(np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32))  # as many tilts as the box
    tables = {
        "optics": pd.DataFrame({"rlnOpticsGroup": [1]}),
        "particles": pd.DataFrame({"rlnImageName": ["1_stack2d.mrcs"], "rlnClassNumber": [1], "rlnOpticsGroup": [1]}),
    }
    tables[block]["rlnImageDimensionality"] = 2
    starfile.write(tables, tmp_path / "a.star")
    expected = r"a\.star: its particles are 2-D stacks of tilts \(rlnImageDimensionality 2\), .* to extract\.py"
    for reader in (lambda path: read(tmp_path, star=path), lambda path: find_inputs([path])):
        with pytest.raises(InputError, match=expected):
            reader(str(tmp_path / "a.star"))
    tables[block]["rlnImageDimensionality"] = 3
    starfile.write(tables, tmp_path / "a.star")
    assert len(read(tmp_path, star=str(tmp_path / "a.star"))) == len(find_inputs([str(tmp_path / "a.star")])) == 1


def test_what_predict_wrote_into_a_star_file_is_no_class_but_what_it_found_there_is(tmp_path):
    make(tmp_path / "a.mrc")
    particles = pd.DataFrame({"rlnImageName": ["a.mrc"], "rlnClassNumber": [11], "lmcclClass": ["unknown"]})
    starfile.write({"particles": particles}, tmp_path / "a.star")
    with pytest.raises(InputError, match=r"a\.star: no column lmcclGivenClassNumber, as its classes are predictions; "):
        read(tmp_path, star=str(tmp_path / "a.star"))
    starfile.write({"particles": particles.assign(lmcclGivenClassNumber=[3])}, tmp_path / "a.star")
    assert list(read(tmp_path, star=str(tmp_path / "a.star"))[LABEL]) == ["class003"]


def test_file_numbers_give_class_particle_snr_and_mask(tmp_path):
    for level in ("003", "inf"):
        for number in range(4):
            make(tmp_path / f"data1_SNR{level}" / "subtomogram_mrc" / f"tomotarget{number}.mrc")
    make(tmp_path / "data1_SNR003" / "processed_densitymap_mrc_mrc2binary" / "packtarget3.mrc")
    table = read(tmp_path)
    assert len(table) == 8
    assert list(table[LABEL]) == ["aaa", "aaa", "bbb", "bbb"] * 2
    assert set(table[SNR]) == {"003", "infinity"}
    assert table.groupby(PARTICLE)[SNR].nunique().eq(2).all()  # the SNR copies of a number are one particle
    assert table[MASK].str.endswith("packtarget3.mrc").sum() == 1
    assert (table[MASK] == "").sum() == 7


def test_a_file_number_beyond_the_known_classes_is_refused(tmp_path):
    make(tmp_path / "data1_SNR003" / "subtomogram_mrc" / "tomotarget4.mrc")
    with pytest.raises(InputError, match=r"tomotarget4\.mrc: number 4 is of class 2 at 2 a class; 2 class names"):
        read(tmp_path)


def test_class_folders_give_one_class_each(tmp_path):
    for name in ("ribosome", "proteasome"):
        make(tmp_path / name / "1.mrc")
    table = read(tmp_path)
    assert list(table[LABEL]) == ["proteasome", "ribosome"]
    assert table[PARTICLE].is_unique  # the same file name in two folders is two particles


def test_particles_csv_keeps_further_columns_and_resolves_paths(tmp_path):
    path = make(tmp_path / "sub" / "a.mrc")
    (tmp_path / "particles.csv").write_text(f"{INPUT},{LABEL},Score\nsub/a.mrc,x,0.5\n")
    table = read(tmp_path)
    assert table[INPUT][0] == str(path)
    assert (table["Score"][0], table[TOMOGRAM][0], table[PARTICLE][0]) == ("0.5", "", "sub/a.mrc")


def test_a_particle_without_a_name_has_its_whole_address_for_one(tmp_path):
    names = [
        "1@s.mrcs",
        "2@s.mrcs",
        "tomo1/p001.mrc",
        "tomo2/p001.mrc",
        "tomo1/tomotarget1.mrc",
        "tomo2/tomotarget1.mrc",
    ]
    lines = "".join(f"{name},x\n" for name in names)
    (tmp_path / "particles.csv").write_text(f"{INPUT},{LABEL}\n{lines}")
    assert list(read(tmp_path)[PARTICLE]) == names


def test_a_particle_in_two_tomograms_is_refused(tmp_path):
    """Where particles are numbered in each tomogram anew, a number alone is no name."""
    text = "Input Data,Actual Label,Particle,Tomogram\na.mrc,a,1,t1\nb.mrc,a,1,t2\nc.mrc,a,2,t2\n"
    (tmp_path / "particles.csv").write_text(text)
    with pytest.raises(InputError, match=r"particles\.csv: particle 1 has 2 tomograms \(t1, t2\); expected one$"):
        read(tmp_path)


def test_snr_copies_in_the_layout_of_the_original_are_one_particle_where_it_has_no_name(tmp_path):
    copies = [f"data{number}_SNR{level}/subtomogram_mrc/tomotarget7.mrc" for number, level in ((1, "003"), (2, "inf"))]
    names = [*copies, *(f"other/{name}" for name in copies), "data1_SNR003/subtomogram_mrc/tomotarget8.mrc"]
    lines = "".join(f"{name},x,\n" for name in names) + "named.mrc,x,p\n"
    (tmp_path / "particles.csv").write_text(f"{INPUT},{LABEL},{PARTICLE}\n{lines}")
    assert list(read(tmp_path)[PARTICLE]) == [
        *["tomotarget7.mrc"] * 2, *["other/tomotarget7.mrc"] * 2, "tomotarget8.mrc", "p"
    ]  # fmt: skip


def test_a_voxel_size_of_0_in_a_table_is_an_unknown_one(tmp_path):
    rows = "a.mrc,x,0\nb.mrc,x,0.00\nc.mrc,x,\nd.mrc,x,13.48\n"
    (tmp_path / "particles.csv").write_text(f"{INPUT},{LABEL},{VOXEL_SIZE}\n{rows}")
    assert list(read(tmp_path)[VOXEL_SIZE]) == ["", "", "", "13.48"]
    (tmp_path / "particles.csv").write_text(f"{INPUT},{LABEL},{VOXEL_SIZE}\na.mrc,x,\nb.mrc,x,ten\n")
    with pytest.raises(InputError, match=r"particles\.csv, row 2: Voxel Size 'ten'; expected a number in A"):
        read(tmp_path)


def star(path, names, **columns):
    """A STAR file of particles of class 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    starfile.write(pd.DataFrame({"rlnImageName": names, "rlnClassNumber": 1, **columns}), path)
    return path


def test_paths_of_a_star_file_are_looked_for_from_its_folder_those_above_it_and_the_current_one(tmp_path, monkeypatch):
    job = tmp_path / "project" / "Extract" / "job7"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for root in (tmp_path / "here", tmp_path / "project", job):  # the last wins over those before
        volume = make(root / "Extract" / "sub" / "a.mrc")
        table, source = read_particles(tmp_path, str(star(job / "p.star", ["Extract/sub/a.mrc"])), NAMES, 2)
        assert list(table[INPUT]) == [str(volume)]
        assert source == f"STAR file {job}/p.star, its paths taken from {root}"


def test_files_of_a_star_file_that_are_not_there_are_named_with_all_folders_that_were_tried(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = star(tmp_path / "job" / "p.star", ["1@none.mrcs"])
    tried = [tmp_path / "job", tmp_path, *tmp_path.parents, tmp_path / "here"]
    with pytest.raises(InputError) as caught:
        read(tmp_path, str(path))
    assert str(caught.value) == f"{path}, row 1: 1@none.mrcs: no such file in any of {', '.join(map(str, tried))}"
    for reader in (lambda path: read(tmp_path, path), lambda path: find_inputs([path])):
        with pytest.raises(InputError) as caught:
            reader(str(star(path, ["1@none.mrcs", "b.mrc"])))
        expected = f"{path}, row 1: 1@none.mrcs: no such file in any of {', '.join(map(str, tried))}"
        assert str(caught.value) == f"{expected} (none of 2 volumes is there)"


@pytest.mark.parametrize("names", [["a.mrc", "b.mrc"], ["b.mrc", "a.mrc"]])
def test_of_a_star_file_with_labels_every_file_must_be_there(names, tmp_path):
    make(tmp_path / "a.mrc")
    path = star(tmp_path / "job" / "p.star", names)
    row = names.index("b.mrc") + 1
    with pytest.raises(InputError, match=rf"p\.star, row {row}: b\.mrc: no such file in {tmp_path}$"):
        read(tmp_path, str(path))
    make(tmp_path / "b.mrc")
    assert len(read(tmp_path, str(path))) == 2


def test_a_star_file_of_voxel_size_0_leaves_it_unknown(tmp_path):
    make(tmp_path / "a.mrc")
    table = read(tmp_path, str(star(tmp_path / "p.star", ["a.mrc"], rlnImagePixelSize=0.0)))
    assert list(table[VOXEL_SIZE]) == [""]


def test_a_table_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    (tmp_path / "particles.csv").write_text(f'{INPUT},{LABEL}\na.mrc,x\n"b.mrc,y\n1,2,3\n')
    (tmp_path / "p.star").write_text("data_\n\nloop_\n_rlnImageName\n_rlnClassNumber\n1 2 3\n1\n")
    messages = {"": "not a readable CSV file", str(tmp_path / "p.star"): "line 6: 3 values; expected 2"}
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as caught:
            read(tmp_path, name)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "address", ["a.mrc", "../b/c.mrc", "/x/y.mrc", "3@s.mrcs", "3@d/s.mrcs", "d/..", ".", "a@b.mrc", "1@"]
)
def test_many_addresses_become_absolute_as_one_does(tmp_path, address):
    assert absolute_all([address, "", address], tmp_path) == [
        absolute(address, tmp_path),
        "",
        absolute(address, tmp_path),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Input Data,Actual Label\n,x\n", "row 1 has no Input Data"),
        ("Input Data\na.mrc\n", "no column Actual Label; found Input Data"),
        ("", "not a readable CSV file"),
        ("Input Data,Actual Label\na.mrc,x\na.mrc,x\n", "more than once"),
        ("Input Data,Actual Label\na.mrc,\n", "row 1 has no Actual Label"),
        ("Input Data,Actual Label,Particle\na.mrc,x,p\nb.mrc,y,p\n", "particle p has 2 labels"),
    ],
)
def test_a_wrong_particles_csv_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "particles.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_particles_csv_goes_before_folders_and_a_star_file_before_both(tmp_path):
    for name in ("x", "y"):
        make(tmp_path / name / "1.mrc")
    assert "class folders" in read_particles(tmp_path, "", NAMES, 2)[1]
    (tmp_path / "particles.csv").write_text(f"{INPUT},{LABEL}\nx/1.mrc,x\n")
    assert "particles.csv" in read_particles(tmp_path, "", NAMES, 2)[1]
    starfile.write(pd.DataFrame({"rlnImageName": ["x/1.mrc"], "rlnClassNumber": [1]}), tmp_path / "p.star")
    assert "STAR file" in read_particles(tmp_path, str(tmp_path / "p.star"), NAMES, 2)[1]


def test_a_star_file_gives_classes_tomograms_voxel_size_and_keeps_its_columns(tmp_path):
    with mrcfile.new(tmp_path / "s.mrcs") as mrc:
        mrc.set_data(np.ones((2, 4, 4, 4), dtype=np.float32))
    particles = pd.DataFrame(
        {
            "rlnImageName": ["1@s.mrcs", "2@s.mrcs"],
            "rlnClassNumber": [2, 1],
            "rlnTomoName": ["t1", "t2"],
            "rlnOpticsGroup": [1, 1],
        }
    )
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [13.48]})
    starfile.write({"optics": optics, "particles": particles}, tmp_path / "p.star")
    table = read(tmp_path, str(tmp_path / "p.star"))
    assert list(table[INPUT]) == [f"1@{tmp_path}/s.mrcs", f"2@{tmp_path}/s.mrcs"]
    assert list(table[LABEL]) == ["class002", "class001"]
    assert list(table[TOMOGRAM]) == ["t1", "t2"]
    assert float(table[VOXEL_SIZE][0]) == pytest.approx(13.48)
    assert list(table["rlnClassNumber"]) == ["2", "1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rlnImageName": ["a"]}, "no column rlnClassNumber"),
        ({"rlnClassNumber": [1]}, "0 tables with rlnImageName"),
        ({"rlnImageName": ["a"], "rlnClassNumber": ["abc"]}, "row 1: rlnClassNumber 'abc'; expected a whole"),
        ({"rlnImageName": ["a"], "rlnClassNumber": ["1.5"]}, "row 1: rlnClassNumber '1.5'; expected a whole"),
        ({"rlnImageName": ["a", "a"], "rlnClassNumber": [1, None]}, "row 2: rlnClassNumber .<NA>.; expected .* every"),
    ],
)
def test_a_star_file_without_a_needed_column_says_which(tmp_path, table, message):
    (tmp_path / "a").touch()
    starfile.write(pd.DataFrame(table), tmp_path / "p.star")
    with pytest.raises(InputError, match=message):
        read(tmp_path, str(tmp_path / "p.star"))


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"found no particles\.csv"):
        read(tmp_path)


def test_of_a_csv_file_some_columns_may_be_kept_and_two_of_one_name_do_no_harm(tmp_path):
    (tmp_path / "a.csv").write_text("x,a,x,Input Data\n1,,3,00255\n")
    assert list(read_csv(tmp_path / "a.csv", (INPUT,), only=(INPUT, "a", "b"))) == ["a", INPUT]
    assert read_csv(tmp_path / "a.csv", (INPUT,)).values.tolist() == [["1", "", "3", "00255"]]
    with pytest.raises(InputError, match=r"no column b; found x, a, x.*, Input Data$"):
        read_csv(tmp_path / "a.csv", ("b",), only=("b",))
