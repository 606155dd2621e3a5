"""The closed-set report as text for the terminal."""

from evaluation.closed_set import ClosedSet
from evaluation.figures import Figure
from loader.columns import snr_text
from report.terminal import MOST_ROWS


def format_closed_set(report: ClosedSet) -> str:
    """A closed-set report as text: accuracies, one line per class, and the confusion matrix of few classes."""
    width = max(10, *(len(name) for name in report.classes))

    def line(name: str, figure: Figure, n: int) -> str:
        low_high = figure.interval
        more = f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""
        return f"{name:<{width + 18}} {_value(figure.value)}{more}  n = {n}"

    lines = [line("accuracy, linear classifier", report.accuracy, report.n)]
    lines += [line(f"  {snr_text(level)}", of_level.accuracy, of_level.n) for level, of_level in report.per_snr.items()]
    lines += [
        line("mean over SNRs", report.mean_over_snrs, report.n),
        line("mean F1 of the classes", report.macro_f1, report.n),
        f"{'largest class alone':<{width + 18}} {_value(report.floor)}",
        f"[95 % intervals over {report.n_particles} particles]",
        "",
        f"{'class':<{width}} {'precision':>9} {'recall':>9} {'F1':>9} {'n':>7}",
    ]
    for name, of_class in report.per_class.items():
        figures = of_class.precision, of_class.recall, of_class.f1
        numbers = "".join(f"    {_value(figure.value)}" for figure in figures)
        lines.append(f"{name:<{width}}{numbers} {of_class.support:>7}")
    if len(report.classes) > MOST_ROWS:
        return "\n".join(lines)
    cell = max(6, *(len(name) + 1 for name in report.classes))
    lines += ["", "confusion matrix (row: true class, column: predicted)"]
    lines.append(" " * width + "".join(f"{name:>{cell}}" for name in report.classes))
    for name, row in zip(report.classes, report.confusion_matrix, strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)


def _value(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"
