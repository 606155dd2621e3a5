"""Settings of train.py that few runs change; the constants that a user edits stand at the top of train.py.

Each class is a group of options in `train.py --help`. `Config` of train.py has them all as its own: cfg.clip, --clip.
"""

from dataclasses import dataclass
from typing import Literal

from loss.loss import LOSSES
from models.ResNet import BACKBONES
from training.recipes import RECIPES

Recipe = Literal[*RECIPES]
Backbone = Literal[*BACKBONES]
Loss = Literal[*LOSSES]
Optimizer = Literal["adamw", "adam"]
Schedule = Literal["one_cycle", "plateau", "decay"]
Imaging = Literal["fixed", "random"]
Reference = Literal["files", "simulated"]


@dataclass(frozen=True)
class Optimisation:
    """How the weights follow from the batches."""

    optimizer: Optimizer = "adamw"  # optimiser of the weights; the publications have adam
    eps: float = 1e-8  # epsilon of the optimiser
    weight_decay: float = 0.01  # weight decay of the network; the loss's own parameters have none
    schedule: Schedule = "one_cycle"  # learning rate: warm-up and a cosine; a tenth at each plateau; or a slow decay
    clip: float = 5.0  # largest norm of the network's gradient; 0 for no limit
    accumulate: int = 1  # batches per step of the optimiser
    class_samples: int = 0  # volumes of each class in a batch of as many classes as fit; 0 for a shuffle
    ema: float = 0.0  # decay of the running average of the weights, which is what is kept; 0 for the weights themselves
    patience: int = 0  # epochs without improvement until training stops early; 0 for never


@dataclass(frozen=True)
class Augmentation:
    """What is done to volumes of files before the network sees them; simulated volumes are new each time."""

    half_turns: bool = True  # turn volumes by the half turns that keep the missing wedge in place
    shift: int = 2  # largest shift of a volume along each axis, voxels
    noise: float = 0.0  # largest standard deviation of the white noise that is added; a volume has 1
    rotate: bool = False  # turn volumes by any rotation, and cut the missing wedge out again


@dataclass(frozen=True)
class Online:
    """Volumes that are simulated as they are needed, in place of those of files; for data of simulate.py."""

    simulate_online: bool = False  # draw every batch afresh from the structures that data_dir was simulated from
    data_dir: str = "data_"  # folder of simulation.json, which says how its data were simulated
    structures: str = ""  # folder of the structures that data_dir was made from; empty for procedural complexes
    online_volumes: int = 0  # simulated volumes per epoch; 0 for as many as train.csv has
    online_snr: tuple[float, float] = (0.02, 0.5)  # range of the SNR of simulated volumes, log-uniform
    online_noise_free: float = 0.1  # share of the simulated volumes that have no noise
    online_defocus: tuple[float, ...] = ()  # range of the simulated defocus, um; empty: as in simulation.json
    online_tilt: tuple[float, ...] = ()  # range of each batch's largest tilt, degrees; empty: as in simulation.json
    online_imaging: Imaging = "fixed"  # imaging of simulated volumes: fixed as in simulation.json, or drawn at random
    online_renewal: float = 1.0  # simulated particles per volume drawn; below 1 each is drawn again, with other noise
    online_stock: int = 4096  # particles kept on the device to draw from, with a renewal below 1
    online_junk: float = 0.0  # share of the simulated volumes that show no particle, as classes of their own
    online_filaments: int = 0  # classes of filaments, procedural ones too, that train beside the auxiliary ones
    online_tilt_series: float = 0.0  # share of random imaging that is a tilt series of single views, far slower
    online_neighbours: int = -1  # largest number of neighbours of a simulated particle; -1: as in simulation.json
    clean_twin: float = 0.0  # weight of a pull of simulated volumes to noise-free ones of their class; 0 for none
    margin_snr: bool = False  # let the margin of a simulated volume grow with its SNR, from none at the lowest
    auxiliary: int = 0  # procedural classes that train beside the known ones, so that more is unlike them
    auxiliary_share: float = 0.7  # share of each batch that is of auxiliary classes
    auxiliary_seed: int = 9  # seed of the shapes of the auxiliary classes


@dataclass(frozen=True)
class Rejection:
    """What a particle is called unknown by."""

    reference: Reference = "files"  # what particles are compared with: training files, or volumes simulated as training
    whiten: float = 0.0  # strength of the within-class whitening of embeddings, 0 to 1; 0 for none
    prototype_per_class: int = 100  # volumes per class that its prototype and the scores of unknowns rest on
    false_rejection_rate: float = 0.05  # share of validation volumes of known classes that may be called unknown


@dataclass(frozen=True)
class Machine:
    """What the figures do not depend on, or hardly."""

    memory_share: float = 0.5  # share of the GPU's memory that volumes may fill, and of the machine's without a file
    bfloat16: bool = True  # compute in bfloat16 on CUDA; the CPU trains in float32
    compile: bool = False  # compile the network by torch.compile
    sync_batchnorm: bool = False  # take the statistics of batch normalisation over all GPUs together
    save_every: int = 2000  # steps between writes of last.pt, the most that a killed run loses; 0 for whole epochs
    keep: int = 3  # latest improvements that are kept as checkpoint<epoch>.pt
    tensorboard: bool = True  # write the figures for TensorBoard too, to save_dir/tensorboard
