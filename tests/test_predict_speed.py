"""The benchmark of predict.py: what it measures, and what it makes of the figures."""

import json

import pytest
import torch

from benchmarks import predict_speed
from loader.star import read_star
from model import load_model


def test_the_speed_is_that_of_all_rounds_and_what_a_row_takes_is_a_slope():
    memory = [
        {"kind": "csv", "rows": rows, "read": False, "bytes": 10**9 + 1000 * rows, "seconds": 1.0, "cpu_s": 2.0}
        for rows in (300, 100, 200)
    ]
    alone = {**memory[0], "kind": "star"}
    assert predict_speed.slopes([*memory, alone]) == [("csv", False, pytest.approx(1000), pytest.approx(1e9))]
    settings = {"device": "a GPU", "device_type": "cuda", "threads": 2, "torch": "2", "command": "python -m x"}
    settings |= {"of": 1000, "box": 16, "batch_size": 4, "network": "net", "embedding_dim": 8}
    clocks = [(2.0, 1.9, 4.0, 3.5), (3.0, 2.6, 6.0, 5.0)]
    names = ("stream_s", "network_s", "stream_cpu_s", "network_cpu_s")
    rounds = [{"volumes": 50, **dict(zip(names, each, strict=True))} for each in clocks]
    text = predict_speed.page({**settings, "rounds": rounds, "memory": memory})
    assert (
        "| 20.0 | 10.0 |" in text
        and "95.0% of the network's own speed, by the best round of each (86.7% to 95.0% in 2 rounds)" in text
    )
    told = "a row of a CSV table, volumes embedded before, takes 1,000 bytes beside 1.0 GB of every run"
    assert told in text and "| 300 | CSV | embedded before | 1,000 | 1 | 2 |" in text
    text = predict_speed.page({**settings, "device_type": "cpu", "rounds": rounds, "memory": memory})
    assert (
        "87.5% of the network's own speed, by the best round of each (83.3% to 87.5% in 2 rounds), by processor time."
        in text
    )


def test_volumes_are_read_from_stacks_and_embedded_twice(trained, tmp_path):
    cfg = predict_speed.Config(
        checkpoint=str(trained / "model_save" / "checkpoint.pt"), volumes=24, round=12, batch_size=4, read=(), rows=(),
        device="cpu", work_dir=str(tmp_path / "w"), results=str(tmp_path / "speed"),
    )  # fmt: skip
    predict_speed.main(cfg)
    found = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert "by processor time." in (tmp_path / "speed_cpu.md").read_text()
    assert [each["volumes"] for each in found["rounds"]] == [12, 12] and found["memory"] == []
    assert all(each["network_cpu_s"] > 0 and each["stream_cpu_s"] > 0 for each in found["rounds"])


def test_a_table_embedded_before_is_predicted_without_reading_and_all_of_it_is_unknown(trained, tmp_path):
    checkpoint = trained / "model_save" / "checkpoint.pt"
    preprocessing = load_model(checkpoint, torch.device("cpu"))[1]["preprocessing"]
    stacks = predict_speed.make_stacks(tmp_path, predict_speed.STACKED, preprocessing)
    small = predict_speed.small_checkpoint(checkpoint, tmp_path / "small" / "checkpoint.pt")
    table = predict_speed.Table("star", 1100, False)
    found = predict_speed.peak(tmp_path, small, stacks, table, torch.device("cpu"))
    assert found["bytes"] > 10**8 and found["cpu_s"] > 0
    log = (tmp_path / "predict.log").read_text()
    assert "goes on after 1100 of 1100 volumes" in log
    content = json.loads(next((tmp_path / "results").glob("*/predict/predictions.json")).read_text())
    assert content["clusters"]["n"] == content["clusters"]["particles"] == 1100
    particles = read_star(next((tmp_path / "results").glob("*/predict/predictions.star")))["particles"]
    assert particles["lmcclClass"].unique().tolist() == ["unknown"] and particles["rlnImageName"].is_unique
