// The page of predictions: which particles are shown and chosen, and what is saved of them.
//
// `content` is what report/interactive.py wrote: row i of each of its lists is particle i, as is row i of the one source
// that all plots share. Shown: what passes the filters. Chosen: what is shown and selected with the mouse; where nothing
// is selected, all that is shown. Counter, pictures, bars and saved files follow from `chosen` alone.

const content = JSON.parse(document.getElementById("content").textContent);
const everyone = content.scores.map((_, row) => row);
const facets = content.facets.map((facet) => ({ ...facet, on: new Set(facet.values.keys()) }));
const MOST_PICTURES = 16;
const OPEN_SHEETS = 3;
const MARGIN = 1.06; // of a tomogram's extent
const LEAST = 90; // pixels of a view of it, along either side
const [AXES, OF_WINDOW] = [180, 0.85]; // pixels beside two views for their axes; share of the window's height for one

const element = (id) => document.getElementById(id);
// of how many, where the page shows some
const counted = value => value.all > value.count ? `${count(value.count)} of ${count(value.all)}` : count(value.count);
const count = (number, noun) => `${number.toLocaleString("en")}${noun ? ` ${noun}${number === 1 ? "" : "s"}` : ""}`;
const picture = (row) => "data:image/jpeg;base64," + content.pictures.start + content.pictures.rests[row];

/** An element with properties and children; text among them is never read as HTML. */
function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** The mark of a class or cluster, as its points have it. */
function chip({ colour, marker }) {
  const made = make("span", { className: `chip ${marker}` });
  made.style.background = colour;
  return made;
}

/** A name that is cut where it is too long. */
const nameOf = (value) => make("span", { className: "name", title: value.name }, value.name);

/** Slices of particles, with their classes and scores. */
function pictures(rows) {
  return rows.map((row) => {
    const text = `${content.scores[row].toFixed(3)} ${content.names[row]}`;
    const image = make("img", { src: picture(row), alt: "slices across z, y, x" });
    const axes = make("div", { className: "axes" }, ...["z", "y", "x"].map((axis) => make("span", {}, axis)));
    return make("figure", { title: content.addresses[row] }, image, axes, make("figcaption", {}, text));
  });
}

/** At most `most` of a list, evenly spread over it. */
function spread(list, most) {
  const step = Math.max(1, list.length / most);
  return Array.from({ length: Math.min(most, list.length) }, (_, place) => list[Math.floor(place * step)]);
}

/** The boxes that say which values of a facet are shown. */
function filterBox(facet) {
  const boxes = facet.values.map((_, code) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.onchange = () => (box.checked ? facet.on.add(code) : facet.on.delete(code), showFiltered());
    return box;
  });
  facet.setAll = (on) => {
    boxes.forEach((box) => (box.checked = on));
    facet.on = new Set(on ? facet.values.keys() : []);
  };
  const button = (text, on) => make("button", { onclick: () => (facet.setAll(on), showFiltered()) }, text);
  const lines = facet.values.map((value, code) => {
    const number = make("span", { className: "number" }, counted(value));
    return make("label", {}, boxes[code], chip(value), nameOf(value), number);
  });
  const legend = make("legend", {}, facet.title, button("all", true), button("none", false));
  facet.box = make("fieldset", { className: "facet" }, legend, make("div", { className: "values" }, ...lines));
  return facet.box;
}

/** A folded line for a class or cluster: the mean of its particles, and some of them. */
function contactSheet(sheet, place) {
  const value = facets.find(({ key }) => key === sheet.facet).values[sheet.code];
  const grid = make("div", { className: "sheet" });
  const mean = make("img", { src: picture(sheet.mean), alt: "mean, slices across z, y, x" });
  const shown = `mean of ${count(value.count)}, and ${count(sheet.rows.length)} of them`;
  const text = [shown, sheet.remark].filter(Boolean).join("; ");
  const line = make("summary", {}, mean, chip(value), nameOf(value), make("span", { className: "quiet" }, text));
  const fill = () => grid.childElementCount || grid.append(...pictures(sheet.rows));
  return make("details", { ontoggle: fill, open: place < OPEN_SHEETS }, line, grid);
}

/** Colour the points by one facet, whose marks then stand in its filter. */
function colourBy(facet) {
  source.data.colour = facet.codes.map((code) => facet.values[code].colour);
  source.data.marker = facet.codes.map((code) => facet.values[code].marker);
  source.change.emit();
  coloured = facet;
  showLegend();
  facets.forEach((other) => other.box.classList.toggle("coloured", other === facet));
}

/** Show what passes all filters. */
function showFiltered() {
  const limit = (id, none) => (element(id).value === "" ? none : Number(element(id).value));
  const [low, high] = [limit("low", -Infinity), limit("high", Infinity)];
  const inRange = (score) => score >= low && score <= high;
  const passes = (row) => inRange(content.scores[row]) && facets.every(({ on, codes }) => on.has(codes[row]));
  const passed = everyone.map(passes);
  shown = everyone.filter((row) => passed[row]);
  model("map-filter").booleans = passed;
  if (tomograms) {
    model("tomogram-filter").booleans = passed.map((pass, row) => pass && inTomogram(row));
    showLegend();
  }
  showChosen();
}

/** Whether a particle has a place in the tomogram that is looked at. */
function inTomogram(row) {
  const { px, py, pz } = source.data;
  return tomograms.codes[row] === Number(element("tomogram").value) && Number.isFinite(px[row] + py[row] + pz[row]);
}

/** Fit the views of the tomogram around its particles and into the page, with one scale for all axes. */
function fitTomogram() {
  const rows = everyone.filter(inTomogram);
  const [xy, zy, xz] = ["tomogram-xy", "tomogram-zy", "tomogram-xz"].map(model);
  const extent = (values) => {
    const [low, high] = rows.reduce(([a, b], row) => [Math.min(a, values[row]), Math.max(b, values[row])], [Infinity, -Infinity]);
    return rows.length ? { middle: (low + high) / 2, size: Math.max(high - low, 1) * MARGIN } : { middle: 0, size: 1 };
  };
  const [x, y, z] = ["px", "py", "pz"].map((name) => extent(source.data[name]));
  const width = Math.max(2 * LEAST, document.querySelector(".views").clientWidth - AXES);
  const height = Math.max(2 * LEAST, innerHeight * OF_WINDOW);
  const scale = Math.max((x.size + z.size) / width, y.size / height); // nm per pixel
  const pixels = (across) => Math.max(LEAST, Math.round(across.size / scale));
  const fit = (range, across) => {
    const half = (pixels(across) * scale) / 2;
    const [start, end] = [across.middle - half, across.middle + half];
    range.setv({ start, end, reset_start: start, reset_end: end });
  };
  for (const [plot, across, up] of [[xy, x, y], [zy, z, y], [xz, x, z]]) {
    plot.setv({ frame_width: pixels(across), frame_height: pixels(up) });
    fit(plot.x_range, across);
    fit(plot.y_range, up);
  }
}

/** Which marks stand for what in the tomogram that is looked at, and how many of each are shown there. */
function showLegend() {
  if (!tomograms) {
    return;
  }
  const there = shown.filter(inTomogram);
  const lines = coloured.values.map((value, code) => {
    const number = there.filter((row) => coloured.codes[row] === code).length;
    return number && make("div", {}, chip(value), nameOf(value), make("span", { className: "quiet" }, count(number)));
  });
  element("legend").replaceChildren(...lines.filter(Boolean));
}

/** The rows that are chosen, in their order. */
function chosen() {
  const selected = new Set(source.selected.indices);
  return selected.size ? shown.filter((row) => selected.has(row)) : shown;
}

/** Say and show what is chosen. */
function showChosen() {
  const rows = chosen();
  const selected = source.selected.indices.length;
  const mouse = selected ? `${count(selected)} selected with the mouse` : "nothing selected with the mouse";
  const how = `${count(shown.length)} of ${count(everyone.length)} pass the filters, ${mouse}`;
  element("counter").replaceChildren(make("b", {}, `${count(rows.length, "particle")} chosen`), `: ${how}.`);
  element("chosen-sheet").replaceChildren(...pictures(spread(rows, MOST_PICTURES)));
  element("clear").disabled = !selected;
  const bars = new Array(content.bars.most).fill(0);
  rows.forEach((row) => (bars[content.bars.places[row]] += 1));
  const { data } = model("chosen-bars");
  model("chosen-bars").data = { ...data, top: bars };
  for (const saver of savers) {
    const mine = rows.filter(saver.holds);
    saver.button.textContent = `Save ${count(mine.length)} as ${saver.name}`;
    saver.button.disabled = !mine.length;
    saver.button.onclick = () => save(saver.file, saver.text(mine));
  }
}

/** A button for each file that can be saved: a CSV, and one for each STAR file that particles came from. */
function makeSavers() {
  const csv = {
    file: "selection.csv",
    name: "CSV",
    holds: () => true,
    text: (rows) => content.csv.head + rows.map((row) => content.csv.rows[row]).join(""),
  };
  const stars = content.stars.map((star, place) => ({
    file: place ? `selection_${place + 1}.star` : "selection.star",
    name: content.stars.length > 1 ? `STAR (${star.name})` : "STAR",
    holds: (row) => row in star.rows,
    text: (rows) => star.head + rows.map((row) => star.rows[row]).join("") + star.tail,
  }));
  return [csv, ...stars].map((saver) => ({ ...saver, button: make("button", {}) }));
}

/** Hand the user a file. */
function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// The plots first: all else changes their models.
const { document: plots, roots } = content.plots;
await Bokeh.embed.embed_items({ page: plots }, [{ docid: "page", roots, root_ids: Object.keys(roots) }]);
const model = (name) => Bokeh.documents[0].get_model_by_name(name);
const source = model("particles");
const tomograms = model("tomogram-xy") && facets.find(({ key }) => key === "tomogram");
const savers = makeSavers();
let [shown, coloured] = [everyone, facets[0]];

source.data.picture = everyone.map(picture);
source.selected.properties.indices.change.connect(showChosen);
element("facets").append(...facets.map(filterBox));
element("save").append(...savers.map(({ button }) => button));
element("clear").onclick = () => (source.selected.indices = []);
element("low").oninput = element("high").oninput = showFiltered;
element("everything").onclick = () => {
  facets.forEach(({ setAll }) => setAll(true));
  element("low").value = element("high").value = "";
  source.selected.indices = [];
  showFiltered();
};
element("colour").parentElement.hidden = facets.length === 1;
element("colour").append(...facets.map(({ key, title }) => make("option", { value: key }, title)));
element("colour").onchange = ({ target }) => colourBy(facets.find(({ key }) => key === target.value));
element("sheets").append(...content.sheets.map(contactSheet));
colourBy(facets[0]);
if (tomograms) {
  const options = tomograms.values.map((value, code) => make("option", { value: code }, `${value.name} (${counted(value)})`));
  element("tomogram").append(...options);
  element("tomogram").onchange = () => (fitTomogram(), showFiltered());
  fitTomogram();
  addEventListener("resize", fitTomogram);
}
showFiltered();
document.body.dataset.ready = "yes";
