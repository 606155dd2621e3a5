"""The network that maps volumes to embeddings, and the checkpoints that hold it."""

import hashlib
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.cli import InputError
from common.files import atomic_path
from common.progress import progress
from evaluation.junk import JunkCalibration
from evaluation.rejection import Calibration
from evaluation.whitening import Whitening
from loader.augment import HALF_TURNS, safe_half_turns
from loader.dataset import on_device
from loader.prepare import Preprocessing
from models.ResNet import BACKBONES

VERSION = 2  # of the checkpoint format
CONTENT = {
    "epoch", "state_dict", "criterion", "optimizer", "scheduler", "scaler", "rng",
    "config", "classes", "preprocessing", "calibration", "metrics", "progress", "version",
}  # fmt: skip
DICTIONARIES = ("state_dict", "criterion", "config", "preprocessing", "calibration", "progress", "junk", "whitening")
OPTIONAL = {"junk", "whitening"}  # what checkpoints of before lack: {} where training had none


class Conv3D(nn.Module):
    """Backbone and embedding: volumes (N, 1, D, H, W) -> embeddings (N, E), not normalised.

    Args:
        backbone: a key of models.ResNet.BACKBONES.
        depth, width: of the backbone.
        embedding_dim: E.
        upsample: trilinear enlargement of the box before the network; 1 keeps the native box.
    """

    def __init__(
        self,
        backbone: str = "resnet_half_turn",
        depth: int = 18,
        width: int = 64,
        embedding_dim: int = 512,
        upsample: int = 1,
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone {backbone!r}: expected one of {sorted(BACKBONES)}")
        if embedding_dim < 1 or upsample < 1:
            raise ValueError(f"embedding_dim {embedding_dim}, upsample {upsample}: expected at least 1")
        self.upsample = upsample
        self.embedding_dim = embedding_dim
        self.backbone = BACKBONES[backbone](depth, width)
        self.embedding = nn.Sequential(
            nn.Linear(self.backbone.features, embedding_dim, bias=False), nn.BatchNorm1d(embedding_dim)
        )

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        if self.upsample > 1:
            volumes = F.interpolate(volumes, scale_factor=self.upsample, mode="trilinear", align_corners=False)
        return self.embedding(self.backbone(volumes))  # (N, 1, D, H, W) -> (N, E)


class Views(nn.Module):
    """A network averaged over views of each volume: as it is, and by each of `turns`. (N, 1, D, H, W) -> (N, E).

    The embedding is the mean of the views' unit embeddings times the mean of their lengths. So its direction is that of
    the mean unit embedding; where the lengths agree it is the plain mean, whose logits are the mean logits; and it is
    shorter where the views disagree.

    Args:
        model: (N, 1, D, H, W) -> (N, E).
        turns: keys of HALF_TURNS, as safe_half_turns gives them.
    """

    def __init__(self, model: nn.Module, turns: tuple[str, ...]):
        super().__init__()
        self.model, self.turns, self.embedding_dim = model, turns, model.embedding_dim
        self.train(model.training)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        views = [volumes, *(volumes.flip(HALF_TURNS[turn]) for turn in self.turns)]
        embeddings = torch.stack([self.model(view) for view in views])  # (V, N, E)
        lengths = embeddings.norm(dim=2, keepdim=True)
        return lengths.mean(dim=0) * F.normalize(embeddings, dim=2).mean(dim=0)  # (V, N, E) -> (N, E)


def with_views(model: nn.Module, config: dict, preprocessing: Preprocessing) -> nn.Module:
    """The network as embeddings are made with it: averaged over views where `config` says so and the tilt range allows.

    A configuration from before the option says nothing, and means one view.
    """
    turns = safe_half_turns(*(preprocessing.tilt_range or (None, None))) if config.get("views") else ()
    return Views(model, turns) if turns else model


class Whitened(nn.Module):
    """A network with embeddings whitened within classes, (N, 1, D, H, W) -> (N, E); see evaluation/whitening.py."""

    def __init__(self, model: nn.Module, whitening: Whitening):
        super().__init__()
        self.model, self.embedding_dim = model, model.embedding_dim
        for name, value in whitening.content().items():
            self.register_buffer(name, value)
        self.train(model.training)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return (F.normalize(self.model(volumes).float()) - self.mean) @ self.matrix


def build_model(config: dict) -> Conv3D:
    """The network that a configuration (of train.py, or of a checkpoint) describes."""
    return Conv3D(*(config[key] for key in ("backbone", "depth", "width", "embedding_dim", "upsample")))


@torch.inference_mode()
def embed(
    model: nn.Module,
    images: torch.Tensor,
    device: torch.device,
    batch_size: int = 256,
    progress_text: str = "",
    normalised: bool = True,
) -> np.ndarray:
    """Embed volumes with the model in eval mode; its mode is put back afterwards.

    Args:
        images: (N, 1, D, H, W), mean 0 and standard deviation 1 each, on any device, any float type.
        progress_text: of a progress bar; empty for none.
        normalised: L2-normalise (the default); False for the network's raw output.

    Returns:
        (N, E) float32.
    """
    was_training = model.training
    model.eval()
    batches = torch.split(images, batch_size)
    parts = []
    for batch in progress(progress_text, batches, unit="batch", hidden=not progress_text):
        batch = on_device(batch, device).contiguous(memory_format=torch.channels_last_3d)
        parts.append(model(batch).float().cpu())
    model.train(was_training)
    embeddings = torch.cat(parts) if parts else torch.empty(0, model.embedding_dim)
    return (F.normalize(embeddings) if normalised else embeddings).numpy()


def save_checkpoint(path: Path | str, **content: object) -> None:
    """Write a checkpoint in one step; `content` has the keys of CONTENT, less the version.

    Raises ValueError when something is missing or unknown.
    """
    content = {**content, "version": VERSION}
    if content.keys() - OPTIONAL != CONTENT:
        raise ValueError(f"a checkpoint holds {sorted(CONTENT)}; got {sorted(content)}")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # a machine that crashes after the rename must find it whole


def trained_classes(checkpoint: dict) -> list[str]:
    """The classes that the loss was trained on, in the order of its weights; those of enrol.py came later."""
    return checkpoint["config"].get("trained_classes", checkpoint["classes"])


def network_code(checkpoint: dict) -> str:
    """What tells a network from any other: of its weights and whitening, the same in each checkpoint that has these."""
    digest = hashlib.sha256()
    whitening = {f"whitening.{name}": value for name, value in checkpoint["whitening"].items()}
    for name, value in sorted((checkpoint["state_dict"] | whitening).items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_checkpoint(path: Path | str) -> dict:
    """Read a checkpoint onto the CPU.

    Raises InputError when there is no such file, or it is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint that train.py wrote")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # such a file is refused, which says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a checkpoint of train.py, or damaged") from error
    if not isinstance(content, dict) or not content.keys() >= CONTENT:
        missing = sorted(CONTENT - content.keys()) if isinstance(content, dict) else "everything"
        raise InputError(f"{path}: not a checkpoint of train.py: missing {missing}")
    if not isinstance(content["version"], int) or content["version"] != VERSION:
        raise InputError(f"{path}: checkpoint format {content['version']}; this code reads {VERSION}")
    content = {key: {} for key in OPTIONAL} | content
    _check_content(path, content)
    content["progress"] = {"particles": torch.empty(0, dtype=torch.int64)} | content["progress"]  # the first had none
    return content | {key: single(content[key]) for key in ("state_dict", "criterion", "calibration", *OPTIONAL)}


def _check_content(path: Path, content: dict) -> None:
    """Refuse what is of the wrong type, claims more than the file can hold, or is not finite where weights are."""
    for key in DICTIONARIES:
        if not isinstance(content[key], dict):
            raise InputError(f"{path}: its {key} is a {type(content[key]).__name__}; expected a dictionary")
    names = content["classes"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: its classes are {str(names)[:40]}; expected a list of names")
    size = path.stat().st_size
    for key in ("state_dict", "criterion", "calibration", *sorted(OPTIONAL)):
        for name, value in content[key].items():
            if not isinstance(value, torch.Tensor):
                continue
            if value.numel() * value.element_size() > size:
                raise InputError(
                    f"{path}: {key} {name} claims {value.numel():,} numbers; the file holds {size:,} bytes"
                )
            if key == "state_dict" and not value.isfinite().all():
                raise InputError(f"{path}: {key} {name} holds NaN or infinity; expected the weights of a network")


def single(values: dict) -> dict:
    """The same with float32 for float16, which ship.py writes."""
    half = {name for name, value in values.items() if getattr(value, "dtype", None) == torch.float16}
    return {name: value.float() if name in half else value for name, value in values.items()}


def load_model(path: Path | str, device: torch.device) -> tuple[nn.Module, dict]:
    """The trained network, in eval mode on `device`, and the checkpoint (on the CPU), in which preprocessing,
    calibration and junk are dataclasses; junk is None where training had none.

    The network is averaged over views where the checkpoint's configuration says so, see `with_views`, and its
    embeddings are whitened where the checkpoint says how.

    Raises InputError as load_checkpoint does, when the weights do not fit the network that the file describes, when its
    calibration is incomplete, and for a last.pt that was written within an epoch: its weights had no validation.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint["progress"].get("step"):
        best = Path(path).with_name("checkpoint.pt")
        instead = best if best.is_file() else "a checkpoint with a validation (train.py --resume ends the epoch)"
        raise InputError(
            f"{path}: written within epoch {checkpoint['epoch'] + 1}, so that its calibration is not that of its "
            f"weights; expected {instead}"
        )
    try:
        checkpoint["calibration"] = Calibration.read(checkpoint["calibration"])
        checkpoint["junk"] = JunkCalibration.read(checkpoint["junk"])
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    try:
        with torch.device("meta"):  # claims of any size cost nothing here
            _check_shapes(build_model(checkpoint["config"]), checkpoint["state_dict"])
        model = build_model(checkpoint["config"])
        model.load_state_dict(checkpoint["state_dict"])
        checkpoint["preprocessing"] = Preprocessing.read(checkpoint["preprocessing"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: its weights do not fit its own configuration ({_first_line(error)})") from error
    model = model.to(device, memory_format=torch.channels_last_3d).eval()
    model = with_views(model, checkpoint["config"], checkpoint["preprocessing"])
    whitening = Whitening.read(checkpoint["whitening"])
    return Whitened(model, whitening).to(device) if whitening else model, checkpoint


def _check_shapes(model: nn.Module, weights: dict) -> None:
    """Raises ValueError for weights of other shapes than the network's."""
    for name, value in model.state_dict().items():
        found = tuple(getattr(weights.get(name), "shape", ()))
        if found != tuple(value.shape):
            raise ValueError(f"{name} is of shape {found}; expected {tuple(value.shape)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
