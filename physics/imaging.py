"""The microscope and the scene that a subtomogram is imaged under."""

from dataclasses import dataclass

from common.cli import InputError

CONVENTIONS = ("variance", "lab")


@dataclass(frozen=True)
class Imaging:
    """The microscope and the scene. Lengths in voxels are of the finished volume."""

    voxel_size: float = 10.0  # A
    tilt_min: float = -60.0  # degrees, about y
    tilt_max: float = 60.0  # degrees
    dual_axis: bool = False  # a second tilt series, about x
    defocus: tuple[float, float] = (5.0, 5.0)  # um of underfocus, from and to
    cs: float = 2.0  # mm, spherical aberration
    voltage: float = 300.0  # kV
    amplitude_contrast: float = 0.07
    envelope: float = 0.4  # of Nyquist: the frequency where the contrast has fallen to 1/e; inf for none
    band_limit: float = 1.0  # of Nyquist: signal and noise end smoothly there; 1 for no limit
    shift: float = 2.0  # voxels: largest shift along each axis
    tilt_step: float = 0.0  # degrees between the views of a tilt series; 0 for the ideal wedge, which is fast
    dose: float = 0.0  # e/A^2 of the whole tilt series
    snr_convention: str = "variance"  # or lab, which is twice as noisy
    common_noise: bool = False  # one noise level for all classes: the SNR is then that of the mean class
    neighbours: int = 0  # other complexes packed around the target
    padding: float = 1.5  # side of the padded box over the box's: from 1.5 on only the wedge's faint streaks still meet

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
            "shift": self.shift < 0,
            "tilt_step, dual_axis": self.tilt_step < 0 or (self.tilt_step > 0 and self.dual_axis),
            "dose, tilt_step": self.dose < 0 or (self.dose > 0 and not self.tilt_step),
            "snr_convention": self.snr_convention not in CONVENTIONS,
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
    "shift": "0 voxels or more",
    "tilt_step, dual_axis": "0 degrees or more, and 0 with dual_axis",
    "dose, tilt_step": "0 e/A^2 or more, and 0 without a tilt_step",
    "snr_convention": " or ".join(CONVENTIONS),
    "neighbours": "0 or more",
    "padding": "1 or more",
}
