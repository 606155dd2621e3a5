"""The closed-set report as text for the terminal."""

from loader.columns import snr_text
from report.terminal import MOST_ROWS


def format_closed_set(report: dict) -> str:
    """A closed-set report as text: accuracies, one line per class, and the confusion matrix of few classes."""
    width = max(10, *(len(name) for name in report["classes"]))

    def figure(value: float | None, low_high: list[float] | None = None) -> str:
        text = "     -" if value is None else f"{value:6.3f}"
        return text if low_high is None else f"{text} [{low_high[0]:.3f}, {low_high[1]:.3f}]"

    def line(name: str, key: str, entry: dict, n: int) -> str:
        return f"{name:<{width + 18}} {figure(entry[key], entry[f'{key}_interval'])}  n = {n}"

    lines = [line("accuracy, linear classifier", "accuracy", report, report["n"])]
    lines += [line(f"  {snr_text(entry['snr'])}", "accuracy", entry, entry["n"]) for entry in report["per_snr"]]
    lines += [
        line("mean over SNRs", "mean_over_snrs", report, report["n"]),
        line("mean F1 of the classes", "macro_f1", report, report["n"]),
        f"{'largest class alone':<{width + 18}} {figure(report['floor'])}",
        f"[95 % intervals over {report['n_particles']} particles]",
        "",
        f"{'class':<{width}} {'precision':>9} {'recall':>9} {'F1':>9} {'n':>7}",
    ]
    for entry in report["per_class"]:
        numbers = "".join(f"    {figure(entry[key])}" for key in ("precision", "recall", "f1"))
        lines.append(f"{entry['class']:<{width}}{numbers} {entry['support']:>7}")
    if len(report["classes"]) > MOST_ROWS:
        return "\n".join(lines)
    cell = max(6, *(len(name) + 1 for name in report["classes"]))
    lines += ["", "confusion matrix (row: true class, column: predicted)"]
    lines.append(" " * width + "".join(f"{name:>{cell}}" for name in report["classes"]))
    for name, row in zip(report["classes"], report["confusion_matrix"], strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)
