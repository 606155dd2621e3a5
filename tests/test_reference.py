"""What particles are compared with: training files, or volumes simulated under the imaging of training."""

import numpy as np
import pytest
import torch

import train
from common.cli import InputError
from evaluation.rejection import calibrated_score
from model import embed, load_checkpoint, load_model
from simulation import cohort, reference
from tests.scripts import small
from training.online import reference_volumes

PER_CLASS = 12
RANDOM = {"simulate_online": True, "online_imaging": "random", "online_renewal": 0.5, "online_volumes": 32}


@pytest.fixture(scope="module")
def run(workspace, tmp_path_factory):
    """A run of one epoch whose reference is simulated; its folder, and the volumes that were compared with."""
    folder = tmp_path_factory.mktemp("reference")
    kept = []
    with pytest.MonkeyPatch.context() as patch:

        def keep(batches, data):
            kept.extend(reference_volumes(batches, data) for _ in range(2))
            return kept[0]

        patch.setattr("training.online.reference_volumes", keep)
        for module, name, value in ((reference, "SHAPES", 3), (reference, "PER_SHAPE", 8), (cohort, "POOL", 4)):
            patch.setattr(module, name, value)
        train.main(options(folder, workspace))
    return folder, kept


def options(folder, workspace, **changes):
    own = {**RANDOM, "reference": "simulated", "prototype_per_class": PER_CLASS, "epochs": 1, "tensorboard": False}
    places = {"csv_dir": str(workspace / "csv_split"), "data_dir": str(workspace / "data_")}
    return small(folder, **{**own, **places, "online_stock": 64, **changes})


def test_the_reference_has_as_many_volumes_of_each_known_class_and_repeats(run):
    first, again = run[1]
    everything = []
    for (images, labels), (same_images, same_labels) in zip(first, again, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
        flat = images.float().flatten(1)
        assert flat.mean(dim=1).abs().max() < 1e-2 and flat.std(dim=1).sub(1).abs().max() < 1e-2
        everything.append(flat)
    for _, labels in (first.reference, first.validation):
        assert torch.bincount(labels).min() >= PER_CLASS and len(labels) == 40  # 36, in whole pieces of 8
    assert torch.bincount(first.cohort[1]).tolist() == [8] * (first.cohort[1].max() + 1)
    assert len(torch.cat(everything).unique(dim=0)) == sum(map(len, everything))  # no volume is on two sides


def test_the_reference_changes_the_calibration_and_no_weight(run, workspace):
    folder, (compared, _) = run
    train.main(options(folder, workspace, save_dir=str(folder / "two"), reference="files"))
    simulated, files = (load_checkpoint(folder / name / "last.pt") for name in ("model_save", "two"))
    assert all(torch.equal(value, files["state_dict"][key]) for key, value in simulated["state_dict"].items())
    assert torch.bincount(files["calibration"]["reference_labels"]).tolist() == [PER_CLASS] * 3
    assert torch.equal(simulated["calibration"]["reference_labels"], compared.reference[1])
    assert (simulated["calibration"]["score"], files["calibration"]["score"]) == ("knn_less_cohort", "knn_cosine")
    device = torch.device("cpu")
    model, loaded = load_model(folder / "model_save" / "last.pt", device)
    for name, (images, _) in (("reference", compared.reference), ("cohort", compared.cohort)):
        found = torch.from_numpy(embed(model, images, device))
        assert (simulated["calibration"][name] * found).sum(dim=1).min() > 0.999
    scores = calibrated_score(embed(model, compared.validation[0], device), loaded["calibration"])
    assert np.mean(scores < loaded["calibration"].threshold) == pytest.approx(0.05, abs=0.03)
    assert loaded["calibration"].n == len(scores)
    train.main(options(folder, workspace, save_dir=str(folder / "two"), resume=True))  # nor is it refused


def test_a_simulated_reference_needs_simulated_volumes(tmp_path):
    with pytest.raises(InputError, match=r"--reference simulated: .* give --simulate-online"):
        train.main(small(tmp_path, reference="simulated"))
