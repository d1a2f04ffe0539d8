"""The table of the Ray benchmark holds the medians of what was measured."""

from benchmarks.speed.ray_training import table_block


def training(side, seed, epoch, ndcg):
    costs = {"startup": 2.0, "epoch": epoch, "epoch_cpu": 2 * epoch, "validation": 0.5, "whole": 30.0, "epochs": 9}
    return {"side": side, "seed": seed, **costs, "valid": {"ndcg@20": ndcg}}


def test_the_table_has_a_column_a_side_and_a_line_a_seed():
    rows = [training("ray", 1, 3.0, 0.4), training("one process", 1, 1.0, 0.3)]
    rows += [training("one process", 0, 2.0, 0.1), training("ray", 0, 4.0, 0.2)]
    about = {"data": "shop", "model": "bpr", "workers": 3, "cores": 2, "settings": ["dim=8"]}
    lines = table_block({"about": about, "trainings": rows}).lines()
    assert lines[0].startswith("`bpr` on shop, 2 cores, 2 seeds; settings dim=8.")
    assert lines[2] == "| | one process | Ray, 3 workers |"
    assert "| training an epoch, s | 1.5 (1 to 2) | 3.5 (3 to 4) |" in lines
    assert "| training an epoch, CPU-s, all processes | 3 (2 to 4) | 7 (6 to 8) |" in lines
    assert lines[-3:] == [
        "| ndcg@20, validation, seed 0 | 0.1000 | 0.2000 |",
        "| ndcg@20, validation, seed 1 | 0.3000 | 0.4000 |",
        "| ndcg@20, validation, mean | 0.2000 | 0.3000 |",
    ]
