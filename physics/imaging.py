"""The microscope and the scene that a subtomogram is imaged under."""

from dataclasses import dataclass
from typing import Literal, get_args

from common.cli import InputError

Convention = Literal["variance", "lab"]  # of the SNR
BandShape = Literal["sphere", "cube"]


@dataclass(frozen=True)
class Imaging:
    """The microscope and the scene. Lengths in voxels are of the finished volume."""

    voxel_size: float = 10.0  # edge of a voxel, A
    tilt_min: float = -60.0  # first tilt of the series about y, degrees
    tilt_max: float = 60.0  # last tilt of the series about y, degrees
    dual_axis: bool = False  # take a second tilt series, about x
    defocus: tuple[float, float] = (5.0, 5.0)  # range of the underfocus, um; each particle's is drawn from it
    cs: float = 2.0  # spherical aberration of the lens, mm
    voltage: float = 300.0  # voltage of the microscope, kV
    amplitude_contrast: float = 0.07  # share of amplitude contrast in the contrast transfer, 0 to 1
    envelope: float = 0.4  # frequency where the contrast has fallen to 1/e, in Nyquist frequencies; inf for none
    band_limit: float = 1.0  # frequency where signal and noise end smoothly, in Nyquist frequencies; 1 for no limit
    band_shape: BandShape = "sphere"  # what the band limit bounds: the frequency (sphere), or each axis of it (cube)
    band_edge: float = 0.2  # share of the band limit over which signal and noise fall to 0
    b_factor: float = 0.0  # B of exp(-B k^2 / 4), which blurs the density, or below 0 sharpens it, A^2
    noise_through_ctf: float = 0.5  # share of the noise's variance that went through the contrast transfer, 0 to 1
    noise_colour: float = 0.0  # how steeply the noise's amplitude falls, as (k / Nyquist + 0.1)^-colour; 0 for white
    shift: float = 2.0  # largest shift of a particle along each axis, voxels
    tilt_step: float = 0.0  # degrees between the views of a real tilt series, far slower; 0 for the ideal wedge
    dose: float = 0.0  # dose of the whole tilt series, electrons per A^2; needs a tilt step
    snr_convention: Convention = "variance"  # variance: SNR = S / N; lab: SNR = 2 r / (1 - r), twice as noisy
    common_noise: bool = False  # one noise level for all classes: the SNR is that of the mean class
    neighbours: int = 0  # largest number of procedural complexes packed around each particle
    padding: float = 1.5  # side of the box that filters act on over the volume's; from 1.5 on little wraps around

    def check(self) -> None:
        """Raises InputError for values that describe no microscope."""
        low, high = self.defocus
        wrong = {
            "voxel_size": self.voxel_size <= 0,
            "tilt_min, tilt_max": not -90 <= self.tilt_min < self.tilt_max <= 90,
            "defocus": not low <= high,
            "voltage": self.voltage <= 0,
            "amplitude_contrast": not 0 <= self.amplitude_contrast <= 1,
            "envelope": self.envelope <= 0,
            "band_limit": not 0 < self.band_limit <= 1,
            "band_shape": self.band_shape not in get_args(BandShape),
            "band_edge": not 0 < self.band_edge <= 1,
            "noise_through_ctf": not 0 <= self.noise_through_ctf <= 1,
            "shift": self.shift < 0,
            "tilt_step, dual_axis": self.tilt_step < 0 or (self.tilt_step > 0 and self.dual_axis),
            "dose, tilt_step": self.dose < 0 or (self.dose > 0 and not self.tilt_step),
            "snr_convention": self.snr_convention not in get_args(Convention),
            "neighbours": self.neighbours < 0,
            "padding": self.padding < 1,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                values = ", ".join(str(getattr(self, part)) for part in name.split(", "))
                raise InputError(f"{name}: {values} is outside of what it can be: {EXPECTED[name]}")


EXPECTED = {
    "voxel_size": "above 0 A",
    "tilt_min, tilt_max": "-90 <= tilt_min < tilt_max <= 90 degrees",
    "defocus": "two numbers in um, the smaller first",
    "voltage": "above 0 kV",
    "amplitude_contrast": "0 to 1",
    "envelope": "above 0, in Nyquist frequencies",
    "band_limit": "above 0, up to 1 Nyquist frequency",
    "band_shape": " or ".join(get_args(BandShape)),
    "band_edge": "above 0, up to 1",
    "noise_through_ctf": "0 to 1",
    "shift": "0 voxels or more",
    "tilt_step, dual_axis": "0 degrees or more, and 0 with dual_axis",
    "dose, tilt_step": "0 e/A^2 or more, and 0 without a tilt_step",
    "snr_convention": " or ".join(get_args(Convention)),
    "neighbours": "0 or more",
    "padding": "1 or more",
}
