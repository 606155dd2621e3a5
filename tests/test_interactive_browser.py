"""The page of predictions in a browser: what a user sees, selects and saves is the particles that the counter says."""

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from loader.columns import CLUSTER, POSITION, PREDICTION, SCORE, TOMOGRAM, UNKNOWN
from loader.star import read_star
from report.interactive import InteractivePage, write_page
from tests.browser import CHROMIUM, Page, browser
from tests.report_page import COUNT, NAMES, NASTY, content, places, slices, star, table

TRIES, SAVE_S = 3, 10  # clicks on a button that saves, and seconds that a file is waited for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

# of the particles of a plot: where each is on the screen
ON_SCREEN = """(name => {
  const view = [...Bokeh.index.roots].find(view => view.model.name === name);
  view.el.scrollIntoView({block: "center"});
  const canvas = view.canvas_view.el.getBoundingClientRect();
  const {x, y} = view.model.renderers[0].glyph;
  const {data} = view.model.renderers[0].data_source;
  const scales = [view.frame.x_scale, view.frame.y_scale];
  return Array.from(data[x.field], (_, row) => [
    canvas.x + scales[0].compute(data[x.field][row]), canvas.y + scales[1].compute(data[y.field][row])]);
})"""
# the pictures under the mouse: tooltips lie in shadow roots
TOOLTIPS = """(() => {
  const found = [];
  const search = root => root.querySelectorAll("*").forEach(element => {
    if (element.tagName === "IMG" && element.width === 300) found.push([element.src, element.parentElement.innerText]);
    if (element.shadowRoot) search(element.shadowRoot);
  });
  search(document);
  return found;
})()"""

# the names and counts beside the views of a tomogram
LEGEND = """[...document.querySelectorAll("#legend div")].map(
  line => [...line.children].slice(1).map(e => e.textContent).join("\\n"))"""
# width and height of the frames of the three views of a tomogram
VIEWS = """["xy", "zy", "xz"].map(axes => {
  const {frame_width, frame_height} = Bokeh.documents[0].get_model_by_name(`tomogram-${axes}`);
  return [frame_width, frame_height];
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def opened(folder) -> Iterator[Page]:
    """The page of the 60 particles, opened."""
    page = InteractivePage(table(), np.arange(COUNT), places(), slices(COUNT), "knn_cosine", 0.5, stars=(star(folder),))
    write_page(folder / "report.html", page)
    with browser(folder) as chromium:
        chromium.open(folder / "report.html")
        yield chromium


@pytest.fixture
def page(opened) -> Page:
    """The page as it was at first."""
    opened.click("#everything")
    return opened


def lasso(page: Page, rows: np.ndarray, plot: str = "map") -> None:
    """Draw a line with the mouse around the particles, 8 pixels from the outermost."""
    spots = np.array(page.run(f"{ON_SCREEN}({json.dumps(plot)})"))[rows]
    (left, top), (right, bottom) = spots.min(axis=0) - 8, spots.max(axis=0) + 8
    page.drag([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    page.wait_for("!document.getElementById('clear').disabled")


def tick(page: Page, facet: str, name: str) -> None:
    """Click on the box of a value."""
    finder = f"[...document.querySelectorAll('.facet')].find(box => box.innerText.startsWith({json.dumps(facet)}))"
    named = f"[...{finder}.querySelectorAll('label')].find(line => line.children[2].textContent === {json.dumps(name)})"
    page.run(f"{named}.children[0].click()")


def counted(page: Page) -> int:
    """The number that the counter shows."""
    return int(page.run("document.querySelector('#counter b').textContent").split()[0].replace(",", ""))


def saved(page: Page, folder: Path, kind: str) -> str:
    """The file that is saved by a click, which says how many rows it will have."""
    number = ["CSV", "STAR"].index(kind)
    target = folder / "downloads" / f"selection.{kind.lower()}"
    target.unlink(missing_ok=True)
    for _ in range(TRIES):  # on a busy machine a button may move away from under the mouse
        page.click(f"#save button:nth-child({number + 1})")
        end = time.monotonic() + SAVE_S
        while not target.exists() and time.monotonic() < end:
            time.sleep(0.02)
        if target.exists():
            break
    return target.read_bytes().decode()


def expect(page: Page, folder: Path, rows: np.ndarray) -> None:
    """Counter, bars and both files are these particles."""
    assert counted(page) == len(rows)
    assert page.run("Bokeh.documents[0].get_model_by_name('chosen-bars').data.top.reduce((a, b) => a + b)") == len(rows)
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(saved(page, folder, "CSV")), keep_default_na=False),
        table().iloc[rows].reset_index(drop=True),
        check_dtype=False,
    )
    source = read_star(folder / "picks.star")
    text = saved(page, folder, "STAR")
    (folder / "selection.star").write_text(text)
    found = read_star(folder / "selection.star")
    kept = [row for row in rows if row >= 10]  # the others are not of the STAR file
    assert list(found) == list(source)
    pd.testing.assert_frame_equal(found["optics"], source["optics"])
    pd.testing.assert_frame_equal(
        found["particles"],
        source["particles"].iloc[::-1].reset_index(drop=True).iloc[[row - 10 for row in kept]].reset_index(drop=True),
    )
    assert page.run("document.querySelector('#save button:nth-child(2)').textContent") == f"Save {len(kept)} as STAR"


def test_the_page_opens_without_a_complaint_and_asks_for_nothing_else(page, folder):
    assert not page.complaints()
    asked = [address for address in page.requests() if not address.startswith(("data:", "blob:"))]
    assert asked == [(folder / "report.html").as_uri()]


def test_the_mouse_over_a_point_shows_its_slices_and_what_it_is(page, folder):
    held = content(folder / "report.html")
    for row in (0, 27, 59):
        page.move((5, 5))
        page.move(page.run(f"{ON_SCREEN}('map')")[row])
        page.wait_for(f"{TOOLTIPS}.length === 1")
        source, text = page.run(TOOLTIPS)[0]
        assert source == "data:image/jpeg;base64," + held["pictures"]["start"] + held["pictures"]["rests"][row]
        for part in (
            table()[PREDICTION][row],
            f"{table()[SCORE][row]:.3f}",
            table()[TOMOGRAM][row],
            table()[CLUSTER][row],
        ):
            assert part in text
        assert f'/data/é <i>"{row}"</i>' in text


def test_the_lasso_chooses_what_lies_in_it_and_saves_exactly_that(page, folder):
    expect(page, folder, np.arange(COUNT))
    lasso(page, np.arange(20, 40))
    expect(page, folder, np.arange(20, 40))
    lasso(page, np.array([44, 45, 48, 49]))
    expect(page, folder, np.array([44, 45, 48, 49]))
    page.click("#clear")
    assert counted(page) == COUNT


def test_what_is_chosen_passes_the_filters_and_lies_in_the_lasso(page, folder):
    rows = table()
    lasso(page, np.arange(20, 60))
    tick(page, "Class", NASTY)
    expect(page, folder, np.arange(40, 60))
    tick(page, "Tomogram", "TS_1")
    expect(page, folder, np.arange(41, 60, 2))
    page.fill("#high", 0.2)
    expect(
        page, folder, np.flatnonzero((rows[SCORE] <= 0.2) & (rows[PREDICTION] == UNKNOWN) & (rows[TOMOGRAM] == "TS_2"))
    )
    page.click("#everything")
    assert counted(page) == COUNT


def test_filters_hide_points_and_all_of_them_together_leave_none(page):
    for name in NAMES:
        tick(page, "Class", name)
    assert counted(page) == 0
    assert page.run("[...document.querySelectorAll('#save button')].every(button => button.disabled)")
    tick(page, "Class", UNKNOWN)
    tick(page, "Cluster", "no cluster")
    assert counted(page) == 12
    view = "[...Bokeh.index.roots].find(view => view.model.name === 'map')"
    page.wait_for(f"[...{view}.children_views()].some(child => child.glyph?.data_size === 12)")


def test_the_tomogram_shows_its_particles_at_one_scale_and_selects_in_the_map_too(page, folder):
    page.fill("#tomogram", 1)
    booleans = page.run("Bokeh.documents[0].get_model_by_name('tomogram-filter').booleans")
    assert np.flatnonzero(booleans).tolist() == list(range(1, COUNT, 2))
    names = [f"tomogram-{axes}" for axes in ("xy", "zy", "xz")]
    spots = {plot: np.array(page.run(f"{ON_SCREEN}('{plot}')")) for plot in names}
    lengths = table()[list(POSITION)].iloc[59] - table()[list(POSITION)].iloc[1]
    across, up = spots["tomogram-xy"][59] - spots["tomogram-xy"][1]
    deep = (spots["tomogram-xz"][59] - spots["tomogram-xz"][1])[1]
    np.testing.assert_allclose(np.array([-deep, -up, across]) / lengths.to_numpy(), across / lengths.iloc[2], rtol=0.01)
    deep, again = spots["tomogram-zy"][59] - spots["tomogram-zy"][1]
    np.testing.assert_allclose([deep / lengths.iloc[0], again], [across / lengths.iloc[2], up], rtol=0.01)
    legend = [line.split("\n") for line in page.run(LEGEND)]
    assert legend == [[name, "10"] for name in (UNKNOWN, *sorted((NASTY, "ribosome")))]
    lasso(page, np.arange(1, 20), "tomogram-xy")
    expect(page, folder, np.arange(1, 20, 2))


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1920, 1080)])
def test_the_views_of_a_tomogram_fill_the_page_as_far_as_the_window_is_high(width, height, folder, tmp_path):
    wide = table()
    for name, extent in zip(POSITION, (3000.0, 9000.0, 9300.0), strict=True):
        wide[name] = np.random.default_rng(0).permutation(np.linspace(0, extent, COUNT))
    write_page(tmp_path / "wide.html", InteractivePage(wide, np.arange(COUNT), places(), slices(COUNT), "energy", 0.5))
    with browser(tmp_path) as chromium:
        chromium.open(tmp_path / "wide.html", width, height)
        sizes = chromium.run(VIEWS)
        room, right = chromium.run("(e => [e.clientWidth, e.scrollWidth])(document.querySelector('.views'))")
    (xy, zy, xz), lowest = sizes, 0.85 * height
    assert xy[0] == xz[0] and xy[1] == zy[1] and abs(zy[0] - xz[1]) <= 1 and xy[1] <= lowest + 1
    assert right == room and (xy[1] > 0.97 * lowest or xy[0] + zy[0] > 0.85 * room) and xy[0] + zy[0] > 0.7 * room


def test_the_menu_of_tomograms_says_how_many_of_all_their_particles_are_shown(page, folder):
    rows = np.arange(0, COUNT, 3)
    write_page(folder / "some.html", InteractivePage(table(), rows, places()[rows], slices(20), "energy", 0.5))
    page.open(folder / "some.html")
    said = page.run("[...document.querySelectorAll('#tomogram option')].map((option) => option.innerText)")
    shown = table()[TOMOGRAM][rows].value_counts()
    assert said == [f"{name} ({shown[name]} of 30)" for name in sorted(shown.index)]
    page.open(folder / "report.html")


def test_colours_follow_the_choice(page):
    shown = "Bokeh.documents[0].get_model_by_name('particles').data.colour"
    assert len({*page.run(shown)}) == 3
    page.fill("#colour", "tomogram")
    assert page.run(shown)[:2] * 30 == page.run(shown)
    page.fill("#colour", "class")


def test_names_are_text_wherever_they_stand(page):
    assert page.run("document.title") == "Predictions for 60 particles"
    assert not page.run("document.querySelectorAll('img[src=x], h2 b, .name b, .counts i').length")
    assert page.run(f"document.body.innerText.split({json.dumps(NASTY)}).length") > 2


def test_contact_sheets_open_on_a_click(page, folder):
    sheets = page.run("document.querySelectorAll('details').length")
    assert sheets == len(content(folder / "report.html")["sheets"]) == 5
    closed = "document.querySelector('#sheets details:last-child')"
    assert not page.run(f"{closed}.open")
    page.click("#sheets details:last-child summary")
    page.wait_for(f"{closed}.querySelectorAll('figure').length === 6")
    captions = page.run(f"[...{closed}.querySelectorAll('.axes')].map((axes) => axes.innerText.split(/\\s+/).join(''))")
    assert captions == ["zyx"] * 6


def test_a_page_without_clusters_tomograms_and_star_opens_too(page, folder):
    rows = table().drop(columns=[CLUSTER, TOMOGRAM, *POSITION]).head(20)
    write_page(folder / "plain.html", InteractivePage(rows, np.arange(20), places()[:20], slices(20), "energy", 0.5))
    page.open(folder / "plain.html")
    assert counted(page) == 20 and not page.complaints()
    assert page.run("document.querySelectorAll('#save button').length") == 1
    assert len(list(csv.reader(io.StringIO(saved(page, folder, "CSV"))))) == 21
