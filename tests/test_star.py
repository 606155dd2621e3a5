"""STAR files in and out: what is read, written and read again is the same text."""

import tracemalloc

import pandas as pd
import pytest
import starfile

from common.cli import InputError
from loader import star
from loader.star import read_star, split_values, star_lines, write_star
from tests import picks

EXTRA = """
# version 50001

data_general

_rlnTomoSubTomosAre2DStacks                       1
_rlnName     'a b'    # a comment

data_particles

loop_
_rlnTomoName #1
_rlnText #2
_rlnNumber
00255   "two words"   1.50000   # not a value
00256   nan   -0
  it's  ''  1e-05
"""


@pytest.mark.parametrize("write", picks.WRITERS, ids=lambda write: write.__name__)
def test_reading_what_was_written_gives_the_same_text_for_every_program(write, tmp_path):
    for path in write(tmp_path):
        if path.suffix != ".star":
            continue
        blocks = read_star(path)
        write_star(tmp_path / "again.star", blocks)
        again = read_star(tmp_path / "again.star")
        assert list(again) == list(blocks)
        for name, block in blocks.items():
            if isinstance(block, pd.DataFrame):
                pd.testing.assert_frame_equal(again[name], block)
                assert " ".join(block.to_numpy().ravel()) in " ".join(path.read_text().split())
            else:
                assert again[name] == block


@pytest.mark.parametrize("write", picks.WRITERS, ids=lambda write: write.__name__)
def test_starfile_reads_the_same_blocks_and_numbers(write, tmp_path):
    for path in write(tmp_path):
        if path.suffix != ".star":
            continue
        write_star(tmp_path / "again.star", read_star(path))
        for written in (path, tmp_path / "again.star"):
            expected = starfile.read(path, always_dict=True)
            found = starfile.read(written, always_dict=True)
            assert list(found) == list(expected) == list(read_star(path))
            for name, block in expected.items():
                if isinstance(block, pd.DataFrame):
                    pd.testing.assert_frame_equal(found[name], block)
                else:
                    assert found[name] == block


def test_text_stays_text(tmp_path):
    (tmp_path / "a.star").write_text(EXTRA)
    blocks = read_star(tmp_path / "a.star")
    assert blocks["general"] == {"rlnTomoSubTomosAre2DStacks": "1", "rlnName": "a b"}
    expected = [["00255", "two words", "1.50000"], ["00256", "nan", "-0"], ["it's", "", "1e-05"]]
    assert blocks["particles"].to_numpy().tolist() == expected
    write_star(tmp_path / "b.star", blocks)
    again = read_star(tmp_path / "b.star")
    assert again["general"] == blocks["general"]
    pd.testing.assert_frame_equal(again["particles"], blocks["particles"])


def test_columns_that_are_added_and_marks_at_the_start_of_a_line_come_back(tmp_path):
    (tmp_path / "a.star").write_text(EXTRA)
    blocks = read_star(tmp_path / "a.star")
    blocks["particles"] = blocks["particles"].assign(rlnClassNumber=[1, 2, 3], rlnText=["_a", "#b", '"c'])
    blocks["one"] = pd.DataFrame({"rlnImageName": ["data_1", "_x", "loop_"]})
    write_star(tmp_path / "b.star", blocks)
    again = read_star(tmp_path / "b.star")
    assert list(again["particles"]["rlnClassNumber"]) == ["1", "2", "3"]
    assert list(again["particles"]["rlnText"]) == ["_a", "#b", '"c']
    assert list(again["one"]["rlnImageName"]) == ["data_1", "_x", "loop_"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_an_empty_table_and_an_empty_block_stay(tmp_path):
    (tmp_path / "a.star").write_text("data_optics\n\ndata_\nloop_\n_rlnA #1\n_rlnB #2\n")
    blocks = read_star(tmp_path / "a.star")
    assert blocks["optics"] == {}
    assert list(blocks[""].columns) == ["rlnA", "rlnB"] and blocks[""].empty
    write_star(tmp_path / "b.star", blocks)
    again = read_star(tmp_path / "b.star")
    assert again["optics"] == {} and list(again[""].columns) == ["rlnA", "rlnB"]


def test_values_are_split_at_white_space_outside_of_quotes():
    assert split_values("""a "b c" 'd "e' f'g ""  # h""") == ["a", "b c", 'd "e', "f'g", ""]
    assert split_values('"a"b" c#d') == ['a"b', "c#d"]
    assert split_values("   ") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no block"),
        ("hello\n", "line 1: 'hello'; expected a block"),
        ("data_\nloop_\n_a\n_b\n1 2 3\n", "line 5: 3 values; expected 2, one for each label"),
        ("data_\nloop_\n_a\n1\nloop_\n_b\n2\n", "line 5: a second table in one block"),
        ("data_x\n_a 1\ndata_x\n_a 1\n", "line 3: a second block data_x"),
        ("data_\nloop_\n_a\n_a\n1 2\n", "line 4: the label a stands twice"),
        ("data_\n_a\n", "line 2: 0 values of a; expected one"),
        ("data_\n1 2\n", "line 2: 2 values; expected 0"),
    ],
)
def test_what_is_no_star_file_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(InputError, match=rf"a\.star.*{message}"):
        read_star(tmp_path / "a.star")


def test_a_value_that_no_line_can_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.star: a STAR file cannot hold the value"):
        write_star(tmp_path / "a.star", {"": {"a": "two\nlines"}})
    with pytest.raises(InputError, match="not a readable STAR file"):
        read_star(tmp_path / "none.star")


def test_the_lines_of_a_file_joined_are_the_file(tmp_path):
    table = pd.DataFrame({"rlnTomoName": ["00255", "two words"], "rlnNote": ["_x", "#y"]})
    blocks = {"optics": {"rlnOpticsGroup": "1"}, "particles": table, "": pd.DataFrame({"a": ["1"]})}
    for version in ("", "50001"):
        write_star(tmp_path / "a.star", blocks, version)
        head, rows, tail = star_lines(tmp_path / "a.star", blocks, "particles", version)
        assert head + "".join(rows) + tail == (tmp_path / "a.star").read_text()
        assert [len(split_values(row)) for row in rows] == [2, 2] and not any(row in head + tail for row in rows)


@pytest.mark.parametrize("piece", [1, 3, 7, 8])
def test_a_table_read_and_written_in_pieces_is_the_same(piece, tmp_path, monkeypatch):
    rows = "".join(f"{n}  'a {n % 3}'  _x{n}\n" for n in range(7))
    text = "\ndata_optics\n\n_rlnA  1\n\ndata_particles\n\nloop_\n_rlnB #1\n_rlnC #2\n_rlnD #3\n" + rows + "\n"
    (tmp_path / "whole.star").write_text(text)
    whole = read_star(tmp_path / "whole.star")
    monkeypatch.setattr(star, "PIECE", piece)
    again = read_star(tmp_path / "whole.star")
    pd.testing.assert_frame_equal(again["particles"], whole["particles"])
    assert again["optics"] == {"rlnA": "1"} and len(again["particles"]) == 7
    write_star(tmp_path / "pieces.star", again)
    assert (tmp_path / "pieces.star").read_text() == text.replace("'", '"')
    head, lines, tail = star_lines(tmp_path / "x.star", again, "particles")
    assert head + "".join(lines) + tail == text.replace("'", '"') and len(lines) == 7


def test_a_label_behind_a_piece_of_rows_is_still_a_value(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "PIECE", 1)
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnB\n1\n_rlnC\n")
    assert read_star(tmp_path / "a.star")[""]["rlnB"].tolist() == ["1", "_rlnC"]


def test_a_value_that_no_line_can_hold_leaves_the_file_of_before(tmp_path):
    write_star(tmp_path / "a.star", {"": {"rlnA": "1"}})
    before = (tmp_path / "a.star").read_text()
    with pytest.raises(InputError, match="cannot hold the value"):
        write_star(tmp_path / "a.star", {"": pd.DataFrame({"rlnA": ["x", "two\nlines"]})})
    assert (tmp_path / "a.star").read_text() == before and len([*tmp_path.iterdir()]) == 1


def test_the_texts_of_many_rows_are_in_memory_a_piece_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "PIECE", 500)
    monkeypatch.setattr(star, "MOST_TEXTS", 500)
    peaks = {}
    for rows in (1000, 8000):
        texts = {f"rln{label}": [f"{label} {row}" for row in range(rows)] for label in "ABCDEF"}
        path, table = tmp_path / f"{rows}.star", pd.DataFrame(texts, dtype=str)
        peaks["write", rows] = peak(write_star, path, {"": table})
        peaks["read", rows] = peak(read_star, path)
        pd.testing.assert_frame_equal(read_star(path)[""], table)
    for name in ("write", "read"):
        assert peaks[name, 8000] < 1.5 * peaks[name, 1000], peaks


def peak(function, *arguments) -> int:
    """The most bytes that Python had for a call."""
    tracemalloc.start()
    function(*arguments)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found
