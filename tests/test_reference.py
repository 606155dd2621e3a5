"""What particles are compared with: training files, or volumes simulated under the imaging of training."""

import pytest
import torch

import train
from common.cli import InputError
from model import embed, load_checkpoint, load_model
from tests.scripts import small
from training.batches import Labelled
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
        train.main(options(folder, workspace))
    return folder, kept


def options(folder, workspace, **changes):
    own = {**RANDOM, "reference": "simulated", "prototype_per_class": PER_CLASS, "epochs": 1, "tensorboard": False}
    places = {"csv_dir": str(workspace / "csv_split"), "data_dir": str(workspace / "data_")}
    return small(folder, **{**own, **places, "online_stock": 64, **changes})


def test_the_reference_has_as_many_volumes_of_each_known_class_and_repeats(run):
    first, again = run[1]
    assert isinstance(first, Labelled)
    assert torch.bincount(first.labels).min() == PER_CLASS and len(first.labels) == 40  # 36, in whole pieces of 8
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    flat = first.images.float().flatten(1)
    assert flat.mean(dim=1).abs().max() < 1e-2 and flat.std(dim=1).sub(1).abs().max() < 1e-2
    assert len(flat.unique(dim=0)) == len(flat)


def test_the_reference_changes_the_calibration_and_no_weight(run, workspace):
    folder, ((images, _), _) = run
    train.main(options(folder, workspace, save_dir=str(folder / "two"), reference="files"))
    simulated, files = (load_checkpoint(folder / name / "last.pt") for name in ("model_save", "two"))
    assert all(torch.equal(value, files["state_dict"][key]) for key, value in simulated["state_dict"].items())
    for saved in (simulated, files):
        assert torch.bincount(saved["calibration"]["reference_labels"]).tolist() == [PER_CLASS] * 3
    assert not torch.equal(simulated["calibration"]["reference"], files["calibration"]["reference"])
    model, _ = load_model(folder / "model_save" / "last.pt", torch.device("cpu"))
    found = torch.from_numpy(embed(model, images, torch.device("cpu")))
    nearest = (simulated["calibration"]["reference"] @ found.T).max(dim=1).values
    assert nearest.min() > 0.999  # each is the embedding of one that was simulated
    train.main(options(folder, workspace, save_dir=str(folder / "two"), resume=True))  # nor is it refused


def test_a_simulated_reference_needs_simulated_volumes(tmp_path):
    with pytest.raises(InputError, match=r"--reference simulated: .* give --simulate-online"):
        train.main(small(tmp_path, reference="simulated"))
