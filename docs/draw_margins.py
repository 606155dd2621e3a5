"""Draw the decision margins of the cosine loss on the circle, from the logits that the loss computes.

-> docs/decision_margins.png

    python -m docs.draw_margins
"""

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from common.cli import REPOSITORY, run
from common.files import atomic_path
from loss.loss import AUTHORS, LMCL, ORIGINAL


@dataclass(frozen=True)
class Config:
    num_classes: int = 3  # number of class weights, evenly spread
    output: str = str(REPOSITORY / "docs" / "decision_margins.png")  # picture file to write


PANELS = {
    "m = 0: plain cosine softmax": 0.0,
    f"m = {AUTHORS['m']}: authors and default": AUTHORS["m"],
    f"m = {ORIGINAL['m']}: original repository": ORIGINAL["m"],
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
POINTS = 3600  # on the circle


def main(cfg: Config) -> None:
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(3.3 * len(PANELS), 3.9))
    for panel, (title, m) in zip(axes, PANELS.items(), strict=True):
        draw_margin(panel, title, m, cfg.num_classes)
    figure.text(
        0.5,
        0.02,
        "Colour: directions that count as right for a class. Grey: right for none, so that classes are driven apart.",
        ha="center",
        fontsize=9,
    )
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.06, top=0.9, wspace=0.05)
    with atomic_path(cfg.output) as path:
        figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
    print(cfg.output)


def on_circle(angles: Tensor) -> Tensor:
    """Unit vectors, (N,) -> (N, 2)."""
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def right_directions(m: float, k: int, angles: Tensor, weight_angles: Tensor) -> Tensor:
    """The angles at which an embedding of class k is right in spite of the margin."""
    criterion = LMCL(2, len(weight_angles), m=m)
    criterion.weight.data = on_circle(weight_angles)
    logits = criterion.logits(on_circle(angles), torch.full((len(angles),), k)).detach()  # (N, C)
    return angles[logits.argmax(dim=1) == k]


def draw_margin(panel: Axes, title: str, m: float, num_classes: int) -> None:
    """One circle: class weights as arrows, the sectors of the classes in colour, the margins between them in grey."""
    weight_angles = math.pi / 2 + torch.arange(num_classes) * 2 * math.pi / num_classes
    around = torch.linspace(-math.pi, math.pi, POINTS)
    panel.plot(*on_circle(around).T.tolist(), color="0.75", linewidth=5)
    for k, colour in enumerate(COLOURS[:num_classes]):
        sector = right_directions(m, k, weight_angles[k] + around, weight_angles)
        x, y = on_circle(sector).T.tolist()
        panel.fill([0, *x], [0, *y], color=colour, alpha=0.15, linewidth=0)
        panel.plot(x, y, color=colour, linewidth=5, solid_capstyle="butt")
        tip = on_circle(weight_angles[k : k + 1])[0].tolist()
        panel.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8})
        panel.text(1.17 * tip[0], 1.17 * tip[1], f"$W_{k + 1}$", ha="center", va="center", color=colour, fontsize=12)
    panel.set_title(f"{title}\nsector of a class {360 * len(sector) / POINTS:.0f}°", fontsize=10)
    panel.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    panel.axis("off")


if __name__ == "__main__":
    run(main, Config, __doc__)
