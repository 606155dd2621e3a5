"""The open-set report for people: the same tables as text for the terminal and as one self-contained HTML page."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path

from common.cli import plural
from common.files import write_text
from loader.columns import snr_text

BETTER = {"unseen_auc": "pairs of unseen classes are told apart", "auroc": "known is told from unseen"}
BETTER_BY = 0.01  # how much a floor's figure must be above the network's for a warning
LABEL_WIDTH, COLUMN_WIDTH = 34, 13
SETS = {
    "valid_unseen": "Held-out classes for choices (valid_unseen.csv)",
    "unseen": "Held-out classes for the final figures (unseen.csv)",
}


@dataclass(frozen=True)
class Table:
    """A question, what its figures mean, the columns, and rows of (label, cells); a cell is (value, interval)."""

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]


def tables(part: dict) -> list[Table]:
    """All tables of one unseen set; that of clusters where it was asked for."""
    clusters = [discovery(part)] if "discovery" in part else []
    others = [confounds(part)] if part["confounds"] else []
    return [verification(part), rejection(part), per_class(part), enrolment(part), *clusters, floors(part), *others]


def known(report: dict) -> Table:
    columns = [report["known"], *report["known"]["per_snr"]]
    rows = [
        ("accuracy, nearest prototype", [_cell(column, "prototype_accuracy") for column in columns]),
        ("AUC, seen-seen pairs", [_cell(column["seen_seen"], "auc") for column in columns]),
        ("volumes", [_count(column["n"]) for column in columns]),
    ]
    note = "Particles of test.csv, of the classes that training saw."
    return Table("Known classes", note, ["all", *(snr_text(column["snr"]) for column in columns[1:])], rows)


def verification(part: dict) -> Table:
    columns = [part["verification"], *part["verification"]["per_snr"]]
    pairs = [column["unseen_unseen"] for column in columns]
    rows = [
        ("accuracy, authors' protocol", [_cell(column["authors"], "accuracy", "std") for column in columns]),
        ("  always saying 'different'", [_cell(column["authors"], "floor") for column in columns]),
        ("AUC", [_cell(entry, "auc") for entry in pairs]),
        ("EER", [_cell(entry, "eer") for entry in pairs]),
        ("VAL at FAR 0.01", [_rate(entry, "0.01") for entry in pairs]),
        ("VAL at FAR 0.001", [_rate(entry, "0.001") for entry in pairs]),
        ("AUC, seen-unseen pairs", [_cell(column["seen_unseen"], "auc") for column in columns]),
        ("pairs: same", [_count(entry["n_same"]) for entry in pairs]),
        ("pairs: different", [_count(entry["n_different"]) for entry in pairs]),
    ]
    note = (
        "Two particles of classes that training never saw: are they of the same class? AUC is 0.5 for guessing and 1 "
        "for never wrong. VAL is the share of same pairs found where that share (FAR) of different pairs is taken for "
        "same; a dash where there are too few pairs to say. No pair shares a particle."
    )
    return Table("Same or different?", note, _levels(part), rows)


def rejection(part: dict) -> Table:
    entry = part["rejection"]
    columns = {score: [figures, *figures["per_snr"]] for score, figures in entry["scores"].items()}
    default = entry["default_score"]
    rates = [entry, *entry["per_snr"]]
    measures = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR95", "oscr": "OSCR"}
    rows = [
        (f"{name}, {default}", [_cell(column, key) for column in columns[default]]) for key, name in measures.items()
    ]
    others = [score for score in columns if score != default]
    rows += [(f"AUROC, {score}", [_cell(column, "auroc") for column in columns[score]]) for score in others]
    rows.append(("knowns called unknown", [_cell(column, "false_rejection_rate") for column in rates]))
    rows.append(("unknowns detected", [_cell(column, "unknown_detection_rate") for column in rates]))
    note = (
        "Is a particle of a known class, or of none of them? AUROC is 0.5 for guessing. FPR95 is the share of unknowns "
        "let in where 95 % of knowns are. OSCR counts a known only when its class is right, and is at most the "
        f"accuracy, {entry['closed_set_accuracy']:.3f}. The threshold {entry['threshold']:.3f} was set on validation "
        f"particles of known classes to call {entry['wished_false_rejection_rate']:.0%} of them unknown."
    )
    return Table("Known or unknown?", note, _levels(part), rows)


def per_class(part: dict) -> Table:
    entry, shots = part["rejection"], part["enrolment"]["unseen_only"][1]
    pairs = {one["class"]: one for one in part["verification"]["unseen_unseen"]["per_class"] or []}
    scores = {one["class"]: one for one in entry["scores"][entry["default_score"]]["per_class"]}
    enrolled = {one["class"]: one for one in shots["per_class"] or []}
    rows = [
        (
            f"{one['class']} (most like {one['most_like']})",
            [
                _cell(pairs.get(one["class"], {}), "auc"),
                _cell(scores[one["class"]], "auroc"),
                _cell(one, "unknown_detection_rate"),
                _cell(enrolled.get(one["class"], {}), "accuracy"),
                _count(scores[one["class"]]["n_unseen"]),
            ],
        )
        for one in entry["per_class"]
    ]
    note = (
        "Of each unseen class: its pairs against the other unseen classes, how well it is told from the known ones, "
        "and how often it is recognised from a few named examples."
    )
    return Table("Class by class", note, ["pair AUC", "AUROC", "detected", f"{shots['shots']}-shot", "volumes"], rows)


def enrolment(part: dict) -> Table:
    entry = part["enrolment"]
    columns = [entry, *entry["per_snr"]]
    kinds = (("unseen_only", "shot"), ("with_known", "shot, knowns compete"))
    rows = [
        (
            f"{shots['shots']}-{text} (chance {shots['chance']:.2f})",
            [_cell(column[kind][number], "accuracy") for column in columns],
        )
        for kind, text in kinds
        for number, shots in enumerate(entry[kind])
    ]
    note = (
        "A few particles of each new class are named; are the others recognised, without training again? Mean over 100 "
        "draws of the named ones. In the lower rows the known classes are possible answers too."
    )
    return Table("Which new class, from a few examples?", note, _levels(part), rows)


def discovery(part: dict) -> Table:
    columns = [part["discovery"], *part["discovery"]["per_snr"]]
    rows = []
    for rows_of, label in (("rejected", "called unknown"), ("all_unseen", "all unseen")):
        for method, short in (("hdbscan", "HDBSCAN"), ("gaussian_mixture", "mixture")):
            found = [column[rows_of][method] for column in columns]
            cells = [
                ("-", "")
                if one is None
                else (
                    f"{one['clusters']}{'+' if one['at_limit'] else ''}/{one['true_classes']}; "
                    + (f"{one['ari']:.2f}" if one["clusters"] and one["true_classes"] > 1 else "-"),
                    _clusters_more(one),
                )
                for one in found
            ]
            rows.append((f"{label}, {short}", cells))
    note = (
        "Clusters found / true classes; adjusted Rand index (1 is perfect, 0 is chance; none for a single class). The "
        "number of clusters is estimated; with a + it is the most that were tried; in brackets the numbers in "
        f"{part['discovery']['all_unseen']['reclusterings']} resamples, and the interval of the index. 'Called "
        "unknown' is what a user would have; 'all unseen' is without any mistake in rejection."
    )
    return Table("How many new classes?", note, _levels(part), rows)


def _clusters_more(found: dict) -> str:
    """What stands small below a number of clusters."""
    comparable = found["clusters"] and found["true_classes"] > 1
    numbers, ari = found["clusters_interval"], found["ari_interval"] if comparable else None
    brackets = [f"[{numbers[0]:.0f}, {numbers[1]:.0f}]"] if numbers else []
    brackets += [f"[{ari[0]:.2f}, {ari[1]:.2f}]"] if ari else []
    texts = [" ".join(brackets)] if brackets else []
    texts += [f"{found['stable_clusters']} stable", *([f"NMI {found['nmi']:.2f}"] if comparable else [])]
    texts += [] if found["purity"] is None else [f"purity {found['purity']:.2f}"]
    return "; ".join(texts)


def floors(part: dict) -> Table:
    levels = [snr_text(entry["snr"]) for entry in part["floors"][0]["per_snr"]]
    rows = [
        (
            entry["embedding"],
            [
                _cell(entry, "unseen_auc"),
                *(_cell(level, "unseen_auc") for level in entry["per_snr"]),
                *(_cell(entry, key) for key in ("five_shot", "auroc", "known_accuracy")),
            ],
        )
        for entry in part["floors"]
    ]
    note = (
        "What brightness alone achieves, size alone (by round blobs of five sizes; and from the true masks, which real "
        "data does not have), or the same network without training. Pair AUC, 5-shot accuracy, AUROC and known "
        "accuracy by nearest neighbours."
    )
    return Table("What else would do it?", note, ["pair AUC", *levels, "5-shot", "AUROC", "known acc."], rows)


def confounds(part: dict) -> Table:
    rows = [
        (entry["factor"], [_cell(entry, key) for key in ("in_known", "in_unknown", "structure", "alone", "within")])
        for entry in part["confounds"]
    ]
    note = (
        "Does 'unknown' follow something else than structure? The share of the score's variance that a factor explains "
        "among known and among unknown particles, beside the share that being known does; the AUROC of the factor "
        "alone; the score's AUROC among particles that are alike in it."
    )
    columns = ["in known", "in unknown", "structure", "alone", "within"]
    return Table("What else does 'unknown' follow?", note, columns, rows)


def warnings(part: dict) -> list[str]:
    """What the reader must know before believing the figures."""
    confounded = [entry["warning"] for entry in part["confounds"] if entry["warning"]]
    return confounded + [text for key in BETTER for text in _better_floors(part["floors"], key)]


def _better_floors(floors: list[dict], key: str) -> list[str]:
    """A warning where floors, which follow the network's own entry, have the higher figure."""
    network, *others = floors
    known = [(floor["embedding"], floor[key]) for floor in others if floor[key] is not None]
    if network[key] is None:
        return []
    better = [f"{name} {value:.3f}" for name, value in known if value > network[key] + BETTER_BY]
    return [f"{BETTER[key]} better without this network ({network[key]:.3f}): {', '.join(better)}"] if better else []


def heading(part: dict) -> str:
    count = len(part["classes"])
    return (
        f"{part['n']} volumes of {part['n_particles']} particles, {count} unseen {plural('class', count)}: "
        + " ".join(part["classes"])
    )


def summary(part: dict) -> str:
    """The main figures of one unseen set in plain words."""
    pairs, rejected = part["verification"]["unseen_unseen"], part["rejection"]
    sentences = []
    if pairs["auc"] is not None:
        sentences.append(
            "Given one pair of new particles of the same class and one of different classes, the network tells which "
            f"is which in {pairs['auc']:.0%} of cases (guessing: 50%)."
        )
    sentences.append(
        f"It calls {rejected['unknown_detection_rate']:.0%} of the particles of new classes unknown, and wrongly "
        f"{rejected['false_rejection_rate']:.0%} of those of known classes."
    )
    five = part["enrolment"]["unseen_only"][1]
    if five["accuracy"] is not None:
        sentences.append(
            f"With {five['shots']} named examples of each new class it names {five['accuracy']:.0%} of the others "
            f"right (guessing: {five['chance']:.0%})."
        )
    return " ".join(sentences)


def format_open_set(report: dict) -> str:
    """Every table of an open-set report as text, without intervals."""
    lines = [f"SNR convention: {report['snr_convention']}", *_text_table(known(report))]
    for name in SETS:
        if name in report:
            lines += ["", f"{name}: {heading(report[name])}"]
            for table in tables(report[name]):
                lines += _text_table(table)
            lines += [f"WARNING: {warning}" for warning in warnings(report[name])]
    return "\n".join(lines)


def _text_table(table: Table) -> list[str]:
    rows = [_line(f"  {label}", [value for value, _ in cells]) for label, cells in table.rows]
    return [_line(table.title, table.columns), *rows]


def _line(label: str, values: list[str]) -> str:
    return f"{label:<{LABEL_WIDTH}}" + "".join(f"{value:>{COLUMN_WIDTH}}" for value in values)


def _levels(part: dict) -> list[str]:
    return ["all", *(snr_text(entry["snr"]) for entry in part["verification"]["per_snr"])]


def _cell(entry: dict, key: str, spread: str = "") -> tuple[str, str]:
    value, low_high = entry.get(key), entry.get(f"{key}_interval")
    if value is None:
        return "-", ""
    more = f"± {entry[spread]:.3f} over folds " if spread else ""
    return f"{value:.3f}", more + ("" if low_high is None else f"[{low_high[0]:.3f}, {low_high[1]:.3f}]")


def _rate(entry: dict, rate: str) -> tuple[str, str]:
    found = (entry["val_at_far"] or {}).get(rate, {"value": None})
    return _cell({"value": found["value"], "value_interval": found.get("interval")}, "value")


def _count(number: int) -> tuple[str, str]:
    return f"{number}", ""


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 3rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 2rem 0 0; } p.note { color: #555; margin: .2rem 0 .6rem; max-width: 52rem; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .25rem .9rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr:nth-child(even) td { background: #f5f7fa; }
thead th { border-bottom: 1px solid #999; } small { display: block; color: #777; white-space: nowrap; }
p.warning { background: #fff2cc; border-left: 4px solid #e0a800; padding: .5rem 1rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
"""


def write_page(path: Path | str, report: dict, pictures: dict[str, list[tuple[Path, str]]]) -> None:
    """Write the report as one HTML file that needs nothing else.

    Args:
        report: what open_set.json holds.
        pictures: name of a set, or `all`, -> (PNG file, caption); the pictures go into the page.
    """
    body = [
        "<h1>Open-set report</h1>",
        f"<p>Checkpoint <code>{html.escape(report['checkpoint'])}</code>, trained on "
        f"{len(report['known_classes'])} known classes: {html.escape(' '.join(report['known_classes']))}. Figures in "
        f"brackets are 95 % intervals from {report['bootstrap']} resamples of the particles.</p>",
        f"<p>SNR convention: {html.escape(report['snr_convention'])}</p>",
        _html_table(known(report)),
        *(_figure(*picture) for picture in pictures.get("all", [])),
    ]
    for name, title in SETS.items():
        if name not in report:
            continue
        body += [f"<h2>{title}</h2>", f"<p>{html.escape(heading(report[name]))}</p>"]
        body += [f"<p>{html.escape(summary(report[name]))}</p>"]
        body += [f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings(report[name])]
        body += [_html_table(table) for table in tables(report[name])]
        body += [_figure(*picture) for picture in pictures.get(name, [])]
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Open-set report</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n",
    )


def _html_table(table: Table) -> str:
    def row(label: str, cells: list[tuple[str, str]]) -> str:
        cells = [*cells, *[("", "")] * (len(table.columns) - len(cells))]
        texts = [html.escape(value) + (f"<small>{html.escape(more)}</small>" if more else "") for value, more in cells]
        return f"<tr><td>{html.escape(label)}</td>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>"

    head = "".join(f"<th>{html.escape(column)}</th>" for column in ["", *table.columns])
    rows = "\n".join(row(label, cells) for label, cells in table.rows)
    return (
        f'<h3>{html.escape(table.title)}</h3>\n<p class="note">{html.escape(table.note)}</p>\n'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"
    )


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(Path(path).read_bytes()).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
