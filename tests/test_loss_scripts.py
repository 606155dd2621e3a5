"""The scripts that time, compare and draw the losses, with tiny settings."""

import json
from collections.abc import Iterator

import pytest
import torch

from benchmarks import loss_options, loss_speed, machine, speed
from common.cli import InputError
from docs import draw_margins


@pytest.fixture(autouse=True)
def same_threads_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test sets does not last; the machine's speed is measured in no time."""
    monkeypatch.setattr(machine, "MATRIX_SIDE", 64)
    monkeypatch.setitem(speed.MATRIX, "cpu", 64)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_speed_of_training_is_measured_in_every_way(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(speed, "ORIGINAL_BATCH", 4)  # splines are slow
    sizes = {"width": 4, "depth": 10, "batch_size": 16, "volumes": 16}
    speed.main(speed.Config(**sizes, seconds=0.01, compiled=False, device="cpu", results=str(tmp_path / "speed")))
    content = json.loads((tmp_path / "speed_cpu_width4.json").read_text())
    assert len(content["rows"]) == 6
    for name, row in content["rows"].items():
        assert row["step"] > 0 and row["epoch"] > 0 and row["gflop"] > 0, name
    # eight times the voxels, eight times the arithmetic
    assert content["rows"]["enlarged on the device"]["gflop"] == pytest.approx(
        8 * content["rows"]["native"]["gflop"], rel=0.1
    )
    for name in ("native, max pooling", "native, half turns"):
        assert content["rows"][name]["gflop"] < content["rows"]["native"]["gflop"]
    shares = content["rows"]["native"]["operators"]
    assert any("convolution" in name for name in shares) and 0.2 < sum(shares.values()) <= 1
    assert "times as fast as one of the original's recipe" in (tmp_path / "speed_cpu_width4.md").read_text()
    with pytest.raises(InputError, match="--volumes 8: expected at least a batch, 16"):
        speed.main(speed.Config(**{**sizes, "volumes": 8}, device="cpu", results=str(tmp_path / "none")))


def test_speed_is_written_with_its_n_and_its_goals(tmp_path):
    loss_speed.main(
        loss_speed.Config(
            batch_size=4, embedding_dim=8, num_classes=(5,), seconds=0, device="cpu", results=str(tmp_path / "speed")
        )
    )
    (result,) = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert result["n"] == loss_speed.MIN_ROUNDS
    assert result["ratios"].keys() == loss_speed.GOALS.keys()
    assert all(value["median"] > 0 for value in result["ms"].values())
    assert "C = 5 (n = 5)" in (tmp_path / "speed.md").read_text()


def test_options_never_see_an_unseen_class_in_training():
    split = loss_options.draw_split(known=6, seed=0)
    assert set(split.train[1].tolist()) == set(split.test[1].tolist()) == set(range(6))
    assert set(split.unseen[1].tolist()) == set(range(6, 10))
    assert sum(len(labels) for _, labels in split) == 1797


def test_a_few_epochs_on_digits_beat_chance():
    cfg = loss_options.Config(epochs=2)
    split = loss_options.draw_split(cfg.known, cfg.seed)
    figures = loss_options.measure(loss_options.train(cfg, split, "soft_lmccl", {}, cfg.seed), split, cfg.known)
    assert figures["accuracy"] > 0.7
    assert figures["auc"] > 0.6


def test_margins_narrow_the_sectors_on_the_circle():
    weights = torch.arange(3) * 2 * torch.pi / 3
    around = torch.linspace(-torch.pi, torch.pi, 720)
    widths = [len(draw_margins.right_directions(m, 1, weights[1] + around, weights)) for m in (0.0, 0.35, 1.25)]
    assert widths[0] == 240
    assert widths == sorted(widths, reverse=True)
    assert widths[2] > 0


def test_the_figure_is_drawn(tmp_path):
    draw_margins.main(draw_margins.Config(output=str(tmp_path / "margins.png")))
    assert 10_000 < (tmp_path / "margins.png").stat().st_size < 200_000
