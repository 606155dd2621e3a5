"""A tilt series as a microscope takes one: project at every tilt, damage, CTF, noise in each view, back-project.

Where the ideal filters of physics/filters.py know only a wedge, this has single views, with gaps between them, fading
with the dose, and noise that was in the views. The cost is some twenty times as high.
"""

import torch
import torch.nn.functional as F


class TiltSeries:
    """Views from tilt_min to tilt_max about y, `step` degrees apart, of boxes (z, y, x) on square detectors.

    The view at tilt t looks along (-sin t, cos t) in (x, z); its first axis is y, its second (cos t, sin t). Views are
    taken by growing |t|, each with its share of `dose`, in e/A^2 in total.

    Args:
        tilts: the first, the last and the step, degrees.
        side, detector: of the boxes and of the views, voxels; the second is more, so that nothing wraps around.
    """

    def __init__(
        self,
        tilts: tuple[float, float, float],
        dose: float,
        voxel_size: float,
        side: int,
        detector: int,
        device: torch.device,
    ):
        tilt_min, tilt_max, step = tilts
        self.angles = torch.arange(tilt_min, tilt_max + 1e-6, step, device=device).deg2rad()
        self.step, self.side, self.detector, self.device = torch.tensor(step).deg2rad().item(), side, detector, device
        ky = torch.fft.fftfreq(detector, device=device)[:, None]
        self.kx = torch.fft.rfftfreq(detector, device=device)  # cycles a voxel
        self.k = (ky**2 + self.kx**2).sqrt() / voxel_size  # (P, P // 2 + 1), 1/A
        order = self.angles.abs().argsort(stable=True).argsort()
        fading = damage(self.k, dose * (order + 1)[:, None, None] / len(order))  # (T, P, P // 2 + 1)
        self.fading = fading
        self.weights = fading / fading.square().mean(dim=0).sqrt() * self.kx  # dose weighting and ramp
        self.hermitian = torch.full_like(self.kx, 2.0)
        self.hermitian[0] = 1.0
        if detector % 2 == 0:
            self.hermitian[-1] = 1.0

    def project(self, volumes: torch.Tensor) -> torch.Tensor:
        """The views' spectra (N, T, P, P // 2 + 1) of volumes (N, D, H, W), before any filter."""
        views = []
        u = torch.arange(self.detector, device=self.device) - (self.detector - 1) / 2
        for angle in self.angles:
            across, along = u[None, :], u[:, None]  # beams run along
            x, z = across * angle.cos() - along * angle.sin(), across * angle.sin() + along * angle.cos()
            points = torch.stack((x, z), dim=-1) * (2 / (self.side - 1))
            planes = volumes.transpose(1, 2)  # (N, y, z, x)
            beams = F.grid_sample(planes, points.expand(len(volumes), -1, -1, -1), align_corners=True)
            view = beams.sum(dim=2)  # (N, y, across)
            views.append(F.pad(view, [0, 0, 0, self.detector - self.side]))
        return torch.fft.rfft2(torch.stack(views, dim=1))

    def back_project(self, spectra: torch.Tensor) -> torch.Tensor:
        """Weighted back-projection: spectra (N, T, P, P // 2 + 1) -> volumes (N, D, H, W)."""
        views = torch.fft.irfft2(spectra * self.weights, s=(self.detector,) * 2)[:, :, : self.side]  # (N, T, y, across)
        offset = torch.arange(self.side, device=self.device) - (self.side - 1) / 2
        volume = 0.0
        for view, angle in zip(views.unbind(1), self.angles, strict=True):
            across = offset * angle.cos() + offset[:, None] * angle.sin()  # (z, x)
            points = torch.stack((across * (2 / (self.detector - 1)), torch.zeros_like(across)), dim=-1)
            volume = volume + F.grid_sample(
                view[:, :, None], points.expand(len(views), -1, -1, -1), align_corners=True
            )  # (N, y, z, x)
        return volume.transpose(1, 2) * self.step

    def white(self, n: int, generator: torch.Generator | None, device: torch.device | str) -> torch.Tensor:
        """Spectra (n, T, P, P // 2 + 1) of views of white noise of variance 1."""
        shape = (n, len(self.angles), self.detector, self.detector)
        return torch.fft.rfft2(torch.randn(shape, generator=generator, device=device))

    def noise_filter(self, contrast: torch.Tensor) -> torch.Tensor:
        """The amplitude of the views' noise, so that the volume's is 1: half through the CTF (N, T, ...), half not."""
        through, white = (self._power(part) for part in (contrast, torch.ones_like(contrast)))
        return (contrast**2 * (0.5 / through) + 0.5 / white).sqrt()

    def _power(self, amplitude: torch.Tensor) -> torch.Tensor:
        """Variance of a volume from views of white noise under `amplitude` (N, T, P, P // 2 + 1): (N, 1, 1, 1).

        Reading a view between its samples, anywhere with the same chance, keeps (2 + cos 2 pi k) / 3 of the power.
        """
        read = (2 + torch.cos(2 * torch.pi * self.kx)) / 3
        power = (amplitude * self.weights).square() * read * self.hermitian
        return power.sum(dim=(1, 2, 3), keepdim=True) / self.detector**2 * self.step**2


def damage(k: torch.Tensor, dose: torch.Tensor) -> torch.Tensor:
    """What is left of the amplitude at k, in 1/A, after a dose in e/A^2 (Grant and Grigorieff 2015, eq. 3 and 4)."""
    critical = 0.24499 * k.clamp(min=1e-4) ** -1.6649 + 2.8141
    return torch.exp(-dose / (2 * critical))
