import numpy as np
import pytest
import torch

from common.cli import InputError
from evaluation.rejection import Calibration
from loader.prepare import Preprocessing
from model import CONTENT, Conv3D, embed, load_checkpoint, load_model, save_checkpoint
from models.ResNet import BACKBONES, ResNet3D
from models.SphereFace import SphereFace20

CALIBRATION = Calibration("max_cosine", 0.5, 0.05, 9, np.eye(2, 8, dtype=np.float32))
CONFIG = {"backbone": "resnet", "depth": 10, "width": 8, "embedding_dim": 8, "upsample": 1}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Conv3D(**CONFIG)


def save(path, model, **changes):
    save_checkpoint(path, **{key: {} for key in CONTENT if key != "version"} | {
        "epoch": 1, "state_dict": model.state_dict(), "config": CONFIG, "classes": ["a", "b"],
        "calibration": CALIBRATION.content(), "preprocessing": Preprocessing(16, 10.0).content(), **changes
    })  # fmt: skip


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
@pytest.mark.parametrize("box", [16, 32])
def test_a_resnet_of_any_depth_maps_any_box_to_its_features(depth, box):
    network = ResNet3D(depth, 4).eval()
    assert network(torch.randn(2, 1, box, box, box)).shape == (2, network.features)


def test_resnet18_of_width_64_has_the_parameters_of_the_original_network():
    count = sum(parameter.numel() for parameter in ResNet3D(18, 64).parameters())
    assert count == pytest.approx(33.2e6, rel=0.01)


@pytest.mark.parametrize(("depth", "width"), [(11, 4), (18, 0)])
def test_an_unknown_depth_or_width_is_refused(depth, width):
    with pytest.raises(ValueError, match="expected"):
        ResNet3D(depth, width)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("box", [16, 32, 40])
def test_every_backbone_says_how_wide_its_output_is(name, box):
    network = BACKBONES[name](20 if name == "sphere20" else 10, 4).eval()
    assert network(torch.randn(1, 1, box, box, box)).shape == (1, network.features)


def test_the_pooled_stem_leaves_an_eighth_of_the_voxels():
    volume = torch.randn(1, 1, 32, 32, 32)
    plain, pooled = (BACKBONES[name](10, 4).stem(volume) for name in ("resnet", "resnet_pool"))
    assert plain.shape[2:] == (16, 16, 16) and pooled.shape[2:] == (8, 8, 8)


def test_sphere20_has_twenty_convolutions_and_at_32_voxels_flattens_all_that_is_left():
    network = SphereFace20(20, 64)
    assert sum(isinstance(layer, torch.nn.Conv3d) for layer in network.modules()) == 20
    assert network.features == 512 * 2**3
    volume = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(network(volume), network.stages(volume).flatten(1))
    with pytest.raises(ValueError, match="sphere20 has 20"):
        SphereFace20(18, 64)


def test_an_untrained_sphere20_tells_volumes_apart():
    torch.manual_seed(0)
    features = SphereFace20(20, 8)(torch.randn(4, 1, 32, 32, 32))
    assert (features.std(dim=0) > 0).float().mean() > 0.5


def test_a_batch_of_one_keeps_its_dimension(model):
    assert model.eval()(torch.randn(1, 1, 16, 16, 16)).shape == (1, 8)


def test_upsampling_happens_inside_the_model():
    torch.manual_seed(0)
    doubled = Conv3D(**{**CONFIG, "upsample": 2}).eval()
    torch.manual_seed(0)
    native = Conv3D(**CONFIG).eval()
    volume = torch.randn(1, 1, 16, 16, 16)
    larger = torch.nn.functional.interpolate(volume, scale_factor=2, mode="trilinear", align_corners=False)
    torch.testing.assert_close(doubled(volume), native(larger))


def test_embeddings_are_normalised_float32_and_independent_of_the_batch(model):
    images = torch.randn(7, 1, 16, 16, 16).half()
    found = embed(model, images, torch.device("cpu"), batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    one_by_one = [embed(model, image[None], torch.device("cpu"))[0] for image in images]
    np.testing.assert_allclose(found, one_by_one, atol=1e-5)


def test_embedding_changes_neither_the_weights_nor_the_mode(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embed(model, torch.randn(4, 1, 16, 16, 16), torch.device("cpu"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_volume_gives_no_embedding(model):
    assert embed(model, torch.empty(0, 1, 16, 16, 16), torch.device("cpu")).shape == (0, 8)


def test_a_checkpoint_reads_back_the_same_network(tmp_path, model):
    save(tmp_path / "c.pt", model)
    found, checkpoint = load_model(tmp_path / "c.pt", torch.device("cpu"))
    assert checkpoint["classes"] == ["a", "b"]
    assert not found.training
    volume = torch.randn(2, 1, 16, 16, 16)
    torch.testing.assert_close(found(volume), model.eval()(volume))


def test_weights_of_another_network_are_refused(tmp_path, model):
    save(tmp_path / "c.pt", model, config={**CONFIG, "width": 16})
    with pytest.raises(InputError, match=r"c\.pt: its weights do not fit"):
        load_model(tmp_path / "c.pt", torch.device("cpu"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_what_is_not_a_checkpoint_is_named(tmp_path, content, model):
    if content is None:
        save(tmp_path / "whole.pt", model)
        content = (tmp_path / "whole.pt").read_bytes()[:2000]
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.pt: not a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_bare_state_dict_is_not_a_checkpoint(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "c.pt")
    with pytest.raises(InputError, match="missing"):
        load_checkpoint(tmp_path / "c.pt")


def test_an_incomplete_checkpoint_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="a checkpoint holds"):
        save_checkpoint(tmp_path / "c.pt", epoch=1)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_from_within_an_epoch_is_refused_and_another_is_named(tmp_path, model):
    """Its weights are new, its calibration is that of the epoch before; in the first epoch there is none."""
    save(tmp_path / "last.pt", model, calibration={}, progress={"step": 3}, epoch=0)
    with pytest.raises(InputError, match=r"last\.pt: written within epoch 1, .*; expected a checkpoint with a valid"):
        load_model(tmp_path / "last.pt", torch.device("cpu"))
    save(tmp_path / "last.pt", model, progress={"step": 3}, epoch=1)
    save(tmp_path / "checkpoint.pt", model, progress={"step": 0})
    with pytest.raises(InputError, match=rf"last\.pt: written within epoch 2, .*; expected {tmp_path}/checkpoint\.pt"):
        load_model(tmp_path / "last.pt", torch.device("cpu"))
    assert load_model(tmp_path / "checkpoint.pt", torch.device("cpu"))[1]["calibration"].threshold == 0.5


def test_a_checkpoint_whose_calibration_is_incomplete_is_refused(tmp_path, model):
    save(tmp_path / "c.pt", model, calibration={"score": "luck"})
    with pytest.raises(InputError, match=r"c\.pt: the calibration has no threshold"):
        load_model(tmp_path / "c.pt", torch.device("cpu"))
