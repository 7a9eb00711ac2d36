"""Random MRI phantoms: textured slices of fictitious heads in six contrasts."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .painting import Canvas, Field, coverage, ellipse, pixel_centers, resolved

_TISSUES = (
    "skin",
    "fat",
    "bone",
    "marrow",
    "csf",
    "gray",
    "white",
    "nuclei",
    "fibers",
    "vessel",
    "sinus",
    "lesion",
)
#: Signal of each tissue per contrast family, before texture and shading.
PHANTOM_FAMILIES: dict[str, dict[str, float]] = {
    family: dict(zip(_TISSUES, signal, strict=True))
    for family, signal in {
        "t1": (0.20, 0.39, 0.05, 0.21, 0.11, 0.32, 0.52, 0.40, 0.45, 0.62, 1.00, 0.25),
        "t2": (0.14, 0.22, 0.05, 0.16, 0.92, 0.44, 0.25, 0.31, 0.30, 0.08, 0.12, 0.62),
        "flair": (0.20, 0.33, 0.05, 0.17, 0.09, 0.47, 0.32, 0.39, 0.37, 0.14, 1.00, 0.85),
        "pd": (0.23, 0.36, 0.06, 0.25, 0.30, 0.62, 0.40, 0.51, 0.46, 0.14, 1.00, 0.66),
        # After a contrast agent, which vessels and lesions take up.
        "t1_contrast": (0.22, 0.39, 0.05, 0.21, 0.11, 0.32, 0.52, 0.40, 0.45, 0.85, 1.00, 0.90),
        # Diffusion-weighted, fat suppressed: fresh lesions are bright.
        "dwi": (0.06, 0.05, 0.03, 0.05, 0.08, 0.40, 0.30, 0.33, 0.34, 0.10, 0.12, 0.95),
    }.items()
}
#: Relative standard deviation of the texture of each tissue.
TEXTURE = dict(zip(_TISSUES, (0.08, 0.12, 0.1, 0.15, 0.04, 0.085, 0.065, 0.08, 0.065, 0.05, 0.0, 0.1), strict=True))
#: Smallest and largest radius of the lesions of :func:`lesion_volume`, in halves of the field of view.
LESION_RADIUS = (0.035, 0.12)
#: Part of white matter in the signal of faint lesions.
LESION_FAINTNESS = 0.4
#: Lowest and highest slice of a volume, in parts of the head's height from its middle.
EXTENT = (-0.40, 0.55)


def brain_phantom(shape: tuple[int, int], seed: int, family: str = "t1") -> Tensor:
    """One slice of a fictitious head with skull, folded cortex, ventricles, lesions and texture.

    The seed sets anatomy, slice position, shading and phase; the family sets the contrast. Fine structure and
    texture reach the resolution of a 128x128 image, so the image is not piecewise constant.

    Parameters
    ----------
    shape
        ``(height, width)``; the head fills it, face up. One seed gives the same head at every size.
    seed
        Seed of the anatomy.
    family
        Key of :data:`PHANTOM_FAMILIES`.

    Returns
    -------
        complex64 image of smooth phase, largest magnitude 1, exactly 0 outside the head.
    """
    head = _Head(seed)
    low, high = EXTENT
    return _normalized([head.slice(low + (high - low) * float(head.position), shape, _contrast(family))])[0]


def phantom_volume(n_slices: int, shape: tuple[int, int], seed: int, family: str = "t1") -> Tensor:
    """Neighboring slices of the head of :func:`brain_phantom`, ``(n_slices, height, width)``, maximum 1."""
    if n_slices < 1:
        raise ValueError(f"phantom_volume: n_slices is {n_slices}, expected at least 1")
    head = _Head(seed)
    low, high = EXTENT
    positions = [low + (high - low) * (index + 0.5) / n_slices for index in range(n_slices)]
    return _normalized([head.slice(position, shape, _contrast(family)) for position in positions])


def lesion_volume(n_slices: int, shape: tuple[int, int], seed: int, family: str = "t1") -> tuple[Tensor, Tensor]:
    """Neighboring slices of a head whose lesions are known, for segmentation.

    The head is that of :func:`phantom_volume` with other lesions: none to six, small and large, half of them faint:
    between white matter and a lesion, as gray matter may be, too. No threshold separates them from
    vessels, cortex and fluid.

    Parameters
    ----------
    n_slices, shape, seed, family
        As for :func:`phantom_volume`.

    Returns
    -------
        complex64 images as those of :func:`phantom_volume`, and int64 labels of the same shape: 1 where a lesion covers
        at least half a pixel, else 0.
    """
    if n_slices < 1:
        raise ValueError(f"lesion_volume: n_slices is {n_slices}, expected at least 1")
    head, (low, high), contrast = _Head(seed), EXTENT, _contrast(family)
    value = LESION_FAINTNESS * contrast["white"][0] + (1 - LESION_FAINTNESS) * contrast["lesion"][0]
    contrast = contrast | {"faint": (value, TEXTURE["lesion"])}
    head.draw_lesions(torch.Generator().manual_seed(seed))
    positions = [low + (high - low) * (index + 0.5) / n_slices for index in range(n_slices)]
    images, lesions = zip(*(head.labeled_slice(position, shape, contrast) for position in positions), strict=True)
    return _normalized(list(images)), torch.stack(lesions)


class _Head:
    """Random anatomy of a seed; coordinates run from -1 to 1, x right, y down, z up."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float, *size: int) -> Tensor:
            return low + (high - low) * torch.rand(size, generator=generator)

        self.position = uniform(0, 1)
        self.semi_axes = uniform(0.64, 0.72), uniform(0.82, 0.89)
        self.tilt = uniform(-0.12, 0.12)
        self.ventricle_size = uniform(0.7, 1.35)
        self.gyrus_depth = uniform(0.24, 0.34)
        self.shading = uniform(-0.16, 0.16, 5)
        self.phase = uniform(-1.2, 1.2, 6)
        n_lesions = int(uniform(2, 9))
        angle, distance = uniform(0, 2 * math.pi, n_lesions), uniform(0.2, 0.5, n_lesions)
        self.lesions = torch.stack(
            (
                distance * angle.cos(),
                distance * angle.sin() * 1.2,
                uniform(EXTENT[0], EXTENT[1], n_lesions),
                uniform(0.014, 0.045, n_lesions),
                uniform(0.6, 1.6, n_lesions),
            ),
            dim=-1,
        )
        #: Tissue of each lesion of :func:`lesion_volume`; None: those that belong to the head.
        self.lesion_kinds: tuple[str, ...] | None = None
        self.warp = Field(generator, 1.5, 0.7)
        self.wobble = Field(generator, 3.5, 1.5)
        self.folds = Field(generator, 7.0, 1.8)
        self.branches = Field(generator, 9.0, 2.5)
        self.grain = Field(generator, 19.0, 7.0)
        self.smooth = Field(generator, 1.6, 0.6)

    def draw_lesions(self, generator: torch.Generator) -> None:
        """Replace the lesions by others: none to six, of log-uniform size, every other one faint."""
        count = int(torch.randint(0, 7, (), generator=generator))
        draws = torch.rand(count, 5, generator=generator)
        angle, distance = 2 * math.pi * draws[:, 0], 0.2 + 0.28 * draws[:, 1]
        radius = LESION_RADIUS[0] * (LESION_RADIUS[1] / LESION_RADIUS[0]) ** draws[:, 2]
        height = EXTENT[0] + (EXTENT[1] - EXTENT[0]) * draws[:, 3]
        places = distance * angle.cos(), 1.2 * distance * angle.sin()
        self.lesions = torch.stack((*places, height, radius, 0.6 + draws[:, 4]), dim=-1)
        self.lesion_kinds = tuple("lesion" if number % 2 == 0 else "faint" for number in range(count))

    def slice(self, z: float, shape: tuple[int, int], contrast: Mapping[str, tuple[float, float]]) -> Tensor:
        """Complex image of the plane at height z."""
        return self._image(z, shape, *self._painted(z, shape, contrast))

    def labeled_slice(
        self, z: float, shape: tuple[int, int], contrast: Mapping[str, tuple[float, float]]
    ) -> tuple[Tensor, Tensor]:
        """Complex image of the plane at height z, and where its lesions are."""
        canvas, outline = self._painted(z, shape, contrast)
        covered = torch.zeros(canvas.shape)
        for lesions_of_a_kind in [canvas.covered[kind] for kind in canvas.covered if kind != "white"]:
            covered = covered + lesions_of_a_kind
        lesions = torch.nn.functional.avg_pool2d(covered[None], 2)[0] >= 0.5
        return self._image(z, shape, canvas, outline), lesions.long()

    def _image(self, z: float, shape: tuple[int, int], canvas: Canvas, outline: Tensor) -> Tensor:
        """Complex image of what was painted."""
        signal, texture, inside = resolved(canvas.layers, outline)
        mid, fine = self.grain.at(z, shape)
        magnitude = signal * (1 + texture * (0.35 * mid + 0.95 * fine)).clamp_min(0) * inside
        y, x = pixel_centers(shape)
        low, lower = self.smooth.at(z, shape)
        c, s = self.phase, self.shading
        phase = c[0] + c[1] * x + c[2] * y + c[3] * x * y + 0.8 * c[4] * x**2 + 0.8 * c[5] * y**2 + 0.35 * low
        shading = 1 + s[0] * x + s[1] * y + s[2] * x * y - (0.12 + s[3]) * (x**2 + y**2) + 0.05 * lower
        return torch.polar(magnitude * shading.clamp_min(0.3), phase + 0.8 * z)

    def _painted(
        self, z: float, size: tuple[int, int], contrast: Mapping[str, tuple[float, float]]
    ) -> tuple[Canvas, Tensor]:
        """All tissues, and the part of each pixel inside the head, at twice the size of the image."""
        if min(size) < 1:
            raise ValueError(f"phantom: shape is {tuple(size)}, expected at least one pixel along each axis")
        shape = (2 * size[0], 2 * size[1])
        x, y = self._warped(z, shape)
        wobble, sulcal = self.wobble.at(z, shape)
        scale = math.sqrt(1 - 0.55 * z * z)
        a, b = (float(axis) * scale for axis in self.semi_axes)
        # A head is a little squarer than an ellipse.
        radius = ((x.abs() / a) ** 2.3 + (y.abs() / b) ** 2.3) ** (1 / 2.3)
        canvas = Canvas(shape, contrast)
        for tissue in ("white", *dict.fromkeys(self.lesion_kinds or ())):
            canvas.watch(tissue)
        canvas.paint("skin", 1.0 - radius)
        canvas.paint("fat", 0.985 - radius)
        canvas.paint("bone", 0.925 + 0.010 * wobble - radius)
        canvas.paint("marrow", 0.014 + 0.006 * sulcal - (radius - 0.895).abs())
        canvas.paint("csf", 0.862 + 0.004 * wobble - radius)
        depth = 0.835 + 0.006 * sulcal - radius
        self._paint_cortex(canvas, z, x, y, depth, sulcal)
        self._paint_interior(canvas, z, x, y, depth)
        return canvas, coverage(1.0 - radius, 0.008)

    def _warped(self, z: float, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        y, x = pixel_centers(shape)
        dx, dy = self.warp.at(z, shape)
        c, s = math.cos(float(self.tilt)), math.sin(float(self.tilt))
        x, y = x + 0.022 * dx, y + 0.022 * dy
        # The back of a head is wider than its front.
        return (c * x - s * y) * (1 - 0.10 * y), s * x + c * y

    def _paint_cortex(self, canvas: "Canvas", z: float, x: Tensor, y: Tensor, depth: Tensor, sulcal: Tensor) -> None:
        folds, vessels = self.folds.at(z, canvas.shape)
        # Zero lines of band-limited noise wind like sulci; they become thinner and end at a varying depth.
        open_ = ((float(self.gyrus_depth) + 0.07 * sulcal - depth) / 0.16).clamp(0, 1)
        midline = (x + 0.012 * folds).abs()
        outer = (y.abs() - 0.30 + 0.5 * max(z, 0)).clamp(0, 0.1) * 10
        canvas.paint("gray", depth)
        ribbon = torch.minimum((folds.abs() - 1.05 * open_) / 40, midline - 0.055 * outer)
        canvas.paint("white", torch.minimum(ribbon, depth - 0.045) - 0.002)
        canvas.paint("csf", torch.minimum((0.30 * open_ - 0.05 - folds.abs()) / 40, depth + 0.02))
        canvas.paint("csf", torch.minimum(0.022 * outer - midline, depth + 0.02))
        canvas.paint("bone", torch.minimum(0.007 * outer - midline, depth + 0.02))  # the falx
        canvas.paint("vessel", torch.minimum((0.08 - vessels.abs()) / 45, 0.06 - (depth - 0.02).abs()) - 0.001)
        canvas.paint("sinus", 0.036 - torch.hypot(midline, 0.85 * depth))

    def _paint_interior(self, canvas: "Canvas", z: float, x: Tensor, y: Tensor, depth: Tensor) -> None:
        fibers, veins = self.branches.at(z, canvas.shape)
        deep = torch.minimum(depth - 0.10, torch.ones_like(depth))
        canvas.paint("fibers", torch.minimum((0.16 - fibers.abs()) / 55, deep), only="white")
        canvas.paint("vessel", torch.minimum((0.035 - veins.abs()) / 55, deep) - 0.0012, only="white")
        side, size = x.abs(), float(self.ventricle_size)
        low, middle = 1 - 4 * (z + 0.15) ** 2, 1 - 5 * (z - 0.05) ** 2
        if low > 0.1:
            canvas.paint("nuclei", ellipse(side, y, 0.13 * size, 0.12, 0.09 * low, 0.14 * low, 0.3))
            canvas.paint("nuclei", ellipse(side, y, 0.30, -0.04, 0.055 * low, 0.18 * low, -0.25))
            canvas.paint("fibers", ellipse(side, y, 0.26, -0.02, 0.020 * low, 0.11 * low, -0.25))
            canvas.paint("csf", ellipse(x, y, 0.0, 0.10, 0.014 * size, 0.11 * low, 0.0))
        if middle > 0.1:
            canvas.paint("nuclei", ellipse(side, y, 0.17 * size, -0.20, 0.05, 0.15 * middle, -0.35))
            canvas.paint("csf", ellipse(side, y, 0.085 * size, -0.20, 0.040 * size, 0.17 * middle, -0.45))
            canvas.paint("csf", ellipse(side, y, 0.150 * size, 0.24, 0.045 * size, 0.19 * middle, 0.45))
            canvas.paint("gray", ellipse(side, y, 0.150 * size, 0.26, 0.014 * size, 0.07 * middle, 0.45))
        for number, (lesion_x, lesion_y, lesion_z, lesion_radius, aspect) in enumerate(self.lesions.tolist()):
            reach = 6 * lesion_radius if self.lesion_kinds is None else 3 * lesion_radius + 0.05
            visible = 1 - ((z - lesion_z) / reach) ** 2
            if visible > 0:
                r = lesion_radius * math.sqrt(visible)
                inside = ellipse(x, y, lesion_x, lesion_y, r, aspect * r, lesion_z * 9)
                if self.lesion_kinds is None:
                    canvas.paint("lesion", inside)
                else:  # of irregular shape, and not beyond the brain
                    inside = torch.minimum(inside + 0.15 * r * fibers, depth - 0.03)
                    canvas.paint(self.lesion_kinds[number], inside)


def _contrast(family: str) -> dict[str, tuple[float, float]]:
    if family not in PHANTOM_FAMILIES:
        raise ValueError(f"phantom: no contrast family {family!r}, expected one of {', '.join(PHANTOM_FAMILIES)}")
    return {tissue: (PHANTOM_FAMILIES[family][tissue], TEXTURE[tissue]) for tissue in _TISSUES}


def _normalized(slices: list[Tensor]) -> Tensor:
    volume = torch.stack(slices)
    return volume / volume.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
