"""The open-set report as text."""

WIDTH = 34


def format_open_set(report: dict) -> str:
    """Short tables of every unseen set of an open-set report."""
    known = report["known"]
    lines = [
        f"known classes: accuracy by nearest prototype {_figure(known, 'prototype_accuracy')}, n = {known['n']}; "
        f"seen-seen pairs AUC {_figure(known['seen_seen'], 'auc')}"
    ]
    for name in ("valid_unseen", "unseen"):
        if name in report:
            lines += ["", *_format_set(name, report[name])]
    return "\n".join(lines)


def _format_set(name: str, part: dict) -> list[str]:
    verification, rejection = part["verification"], part["rejection"]
    levels = [entry["snr"] for entry in verification["per_snr"]]
    columns = [verification, *verification["per_snr"]]
    lines = [
        f"{name}: {part['n']} volumes of {part['n_particles']} particles, {len(part['classes'])} unseen classes: "
        + " ".join(part["classes"]),
        _row("", ["all", *(f"SNR {level}" for level in levels)]),
        "same or different? (two unseen particles)",
        _row("  accuracy, authors' protocol", [_value(column["authors"]["accuracy"]) for column in columns]),
        _row("    always saying 'different'", [_value(column["authors"]["floor"]) for column in columns]),
        _row("  AUC", [_value(column["unseen_unseen"]["auc"]) for column in columns]),
        _row("  EER", [_value(column["unseen_unseen"]["eer"]) for column in columns]),
        *(
            _row(f"  VAL at FAR {rate}", [_val(column["unseen_unseen"], rate) for column in columns])
            for rate in ("0.01", "0.001")
        ),
        _row("  AUC, seen-unseen pairs", [_value(verification["seen_unseen"]["auc"])]),
        "known or unknown?",
    ]
    default = [rejection["scores"][rejection["default_score"]], *rejection["per_snr"]]
    for measure in ("auroc", "aupr", "fpr95", "oscr"):
        label = f"  {measure.upper()}, {rejection['default_score']}"
        lines.append(_row(label, [_value(column.get(measure)) for column in default]))
    for score, entry in rejection["scores"].items():
        if score != rejection["default_score"]:
            lines.append(_row(f"  AUROC, {score}", [_value(entry.get("auroc"))]))
    rates = [rejection, *rejection["per_snr"]]
    lines.append(_row("  knowns called unknown", [_value(column["false_rejection_rate"]) for column in rates]))
    lines.append(_row("  unknowns detected", [_value(column["unknown_detection_rate"]) for column in rates]))
    lines.append("which unseen class, from a few examples?")
    enrolment = [part["enrolment"], *part["enrolment"]["per_snr"]]
    for index, entry in enumerate(part["enrolment"]["unseen_only"]):
        values = [_value(column["unseen_only"][index]["accuracy"]) for column in enrolment]
        lines.append(_row(f"  {entry['shots']}-shot accuracy (chance {entry['chance']:.2f})", values))
    for entry in part["enrolment"]["with_known"]:
        lines.append(_row(f"  {entry['shots']}-shot, knowns compete", [_value(entry["accuracy"])]))
    lines += _format_discovery(part["discovery"])
    lines += ["", *_format_floors(part["floors"])]
    warnings = [entry["warning"] for entry in part["confounds"] if entry["warning"]]
    return lines + [f"WARNING: {warning}" for warning in warnings]


def _format_discovery(discovery: dict) -> list[str]:
    lines = ["how many new classes? (clusters found / true classes; ARI)"]
    columns = [discovery, *discovery["per_snr"]]
    for rows, label in (("rejected", "called unknown"), ("all_unseen", "all unseen")):
        for method, short in (("hdbscan", "HDBSCAN"), ("gaussian_mixture", "mixture")):
            found = [column[rows][method] for column in columns]
            values = [
                "-" if one is None else f"{one['clusters']}/{one['true_classes']}; {one['ari']:.2f}" for one in found
            ]
            lines.append(_row(f"  {label}, {short}", values))
    return lines


def _format_floors(floors: list[dict]) -> list[str]:
    levels = [entry["snr"] for entry in floors[0]["unseen_auc_per_snr"]]
    header = ["pair AUC", *(f"SNR {level}" for level in levels), "5-shot", "AUROC", "known acc."]
    lines = [_row("what else would do it?", header)]
    for entry in floors:
        values = [entry["unseen_auc"], *(level["auc"] for level in entry["unseen_auc_per_snr"])]
        values += [entry[key] for key in ("five_shot", "auroc", "known_accuracy")]
        lines.append(_row(f"  {entry['embedding']}", [_value(value) for value in values]))
    return lines


def _row(label: str, values: list[str]) -> str:
    return f"{label:<{WIDTH}}" + "".join(f"{value:>13}" for value in values)


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _val(entry: dict, rate: str) -> str:
    return "-" if entry["val_at_far"] is None else _value(entry["val_at_far"][rate]["value"])


def _figure(entry: dict, key: str) -> str:
    low_high = entry[f"{key}_interval"]
    text = _value(entry[key])
    return text if low_high is None else f"{text} [{low_high[0]:.3f}, {low_high[1]:.3f}]"
