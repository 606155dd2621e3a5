"""The benchmark of predict.py: what it measures, and what it makes of the figures."""

import json

import pytest

from benchmarks import predict_speed


def test_the_speed_is_that_of_all_rounds_and_a_million_rows_follow_a_straight_line():
    memory = [{"kind": "csv", "rows": rows, "bytes": 10**8 + 1000 * rows, "seconds": 1.0} for rows in (100, 300)]
    assert dict(predict_speed.line(memory)) == {"csv": pytest.approx(1.1e9)}
    settings = {"device": "cuda", "threads": 2, "torch": "2", "command": "python -m x"}
    settings |= {"box": 16, "batch_size": 4, "network": "net", "embedding_dim": 8}
    clocks = [(2.0, 1.9, 4.0, 3.5), (3.0, 2.6, 6.0, 5.0)]
    names = ("stream_s", "network_s", "stream_cpu_s", "network_cpu_s")
    rounds = [{"volumes": 50, **dict(zip(names, each, strict=True))} for each in clocks]
    text = predict_speed.page({**settings, "rounds": rounds, "memory": memory})
    assert (
        "| 20.0 | 10.0 |" in text
        and "95.0% of the network's own speed, by the best round of each (86.7% to 95.0% in 2 rounds)" in text
    )
    assert "1,000,000 rows of a CSV table take 1.1 GB" in text
    text = predict_speed.page({**settings, "device": "cpu", "rounds": rounds, "memory": memory})
    assert (
        "87.5% of the network's own speed, by the best round of each (83.3% to 87.5% in 2 rounds), by processor time."
        in text
    )


def test_volumes_are_read_from_stacks_and_embedded_twice(trained, tmp_path):
    cfg = predict_speed.Config(
        checkpoint=str(trained / "model_save" / "checkpoint.pt"), volumes=24, round=12, batch_size=4, rows=(),
        device="cpu", work_dir=str(tmp_path / "w"), results=str(tmp_path / "speed"),
    )  # fmt: skip
    predict_speed.main(cfg)
    found = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert [each["volumes"] for each in found["rounds"]] == [12, 12] and found["memory"] == []
    assert all(each["network_cpu_s"] > 0 and each["stream_cpu_s"] > 0 for each in found["rounds"])
