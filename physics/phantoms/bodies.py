"""Random CT phantoms: textured slices of fictitious bodies in Hounsfield units."""

import math

import torch
from torch import Tensor

from .painting import Canvas, Field, coverage, ellipse, pixel_centers, resolved

AIR_HU = -1000.0
#: Smallest and largest radius of the lesions of :func:`lung_lesion_volume`, in halves of the field of view.
TUMOR_RADIUS = (0.04, 0.13)
#: Their half height, in parts of the volume.
_TUMOR_HEIGHT = 0.35
#: Mean and standard deviation of the texture of each tissue, in Hounsfield units.
_TISSUES: dict[str, tuple[float, float]] = {
    "air": (AIR_HU, 0.0),
    "skin": (20.0, 10.0),
    "fat": (-95.0, 16.0),
    "strand": (-20.0, 20.0),
    "muscle": (55.0, 16.0),
    "organ": (75.0, 12.0),
    "kidney": (140.0, 22.0),
    "blood": (165.0, 8.0),
    "lesion": (35.0, 10.0),
    "tumor": (40.0, 12.0),
    "fluid": (8.0, 4.0),
    "gray": (40.0, 6.0),
    "white": (27.0, 5.0),
    "lung": (-840.0, 45.0),
    "marrow": (190.0, 110.0),
    "bone": (950.0, 120.0),
    "cartilage": (120.0, 12.0),
}


def body_phantom(shape: tuple[int, int], seed: int, family: str = "chest") -> Tensor:
    """One slice of :func:`body_volume` at a random height."""
    body = _Body(seed)
    return body.slice(float(body.position), shape, family)


def body_volume(n_slices: int, shape: tuple[int, int], seed: int, family: str = "chest") -> Tensor:
    """Neighboring slices of a body with organs, bones, vessels and texture.

    The seed sets the anatomy, the family the region of the body. One seed gives the same body at every image size.
    Trabecular bone, lung vessels, strands of fat and texture reach the resolution of a 256x256 image.

    Parameters
    ----------
    n_slices, shape
        Number and ``(height, width)`` of the slices; the body lies within the inscribed circle, face up.
    seed
        Seed of the anatomy.
    family
        Key of :data:`BODY_FAMILIES`.

    Returns
    -------
        Hounsfield units, float32, ``(n_slices, height, width)``; -1000 outside the body.

    Raises
    ------
    ValueError
        If the family is unknown, or there is no slice or no pixel to draw.
    """
    if n_slices < 1:
        raise ValueError(f"body_volume: n_slices is {n_slices}, expected at least 1")
    body = _Body(seed)
    positions = [-0.5 + (index + 0.5) / n_slices for index in range(n_slices)]
    return torch.stack([body.slice(position, shape, family) for position in positions])


def lung_lesion_volume(n_slices: int, shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Neighboring slices of a chest with lesions of the lungs that are known, for segmentation.

    The body is that of :func:`body_volume` with other lesions: two to six, of log-uniform size. Vessels, the heart and
    the chest wall beside the lungs are as dense: no threshold separates them.

    Parameters
    ----------
    n_slices, shape, seed
        As for :func:`body_volume`.

    Returns
    -------
        Hounsfield units as those of :func:`body_volume`, and int64 labels of the same shape: 1 where a lesion covers at
        least half a pixel, else 0.

    Raises
    ------
    ValueError
        As :func:`body_volume`.
    """
    if n_slices < 1:
        raise ValueError(f"lung_lesion_volume: n_slices is {n_slices}, expected at least 1")
    body = _Body(seed)
    body.draw_tumors(torch.Generator().manual_seed(seed))
    positions = [-0.5 + (index + 0.5) / n_slices for index in range(n_slices)]
    images, lesions = zip(*(body.labeled_slice(position, shape, "chest") for position in positions), strict=True)
    return torch.stack(images), torch.stack(lesions)


class _Body:
    """Random anatomy of a seed; coordinates run from -1 to 1, x right, y down."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(24, generator=generator).tolist()
        self.position = draws[0] - 0.5
        self.size, self.aspect, self.fatness = 0.76 + 0.14 * draws[1], 0.70 + 0.12 * draws[2], 0.05 + 0.07 * draws[3]
        self.tilt, self.draws = 0.16 * (draws[4] - 0.5), draws[5:]
        self.spots = torch.rand(14, 4, generator=generator).tolist()
        self.warp, self.bend = Field(generator, 1.4, 0.6), Field(generator, 3.0, 1.2)
        self.folds, self.branches = Field(generator, 7.0, 2.0), Field(generator, 11.0, 3.5)
        self.grain = Field(generator, 26.0, 11.0)
        #: Lesions of :func:`lung_lesion_volume`: x and y in parts of a lung, z, radius; None: those of the body. Every
        #: other one is in the right lung.
        self.tumors: list[list[float]] | None = None

    def draw_tumors(self, generator: torch.Generator) -> None:
        """Replace the lesions of the lungs by others: two to six."""
        count = int(torch.randint(2, 7, (), generator=generator))
        draws = torch.rand(count, 4, generator=generator)
        angle, distance = 2 * math.pi * draws[:, 0], 0.8 * draws[:, 1].sqrt()
        radius = TUMOR_RADIUS[0] * (TUMOR_RADIUS[1] / TUMOR_RADIUS[0]) ** draws[:, 2]
        self.tumors = torch.stack(
            (distance * angle.cos(), distance * angle.sin(), draws[:, 3] - 0.5, radius), dim=-1
        ).tolist()

    def slice(self, z: float, shape: tuple[int, int], family: str) -> Tensor:
        """Hounsfield units of the plane at height z."""
        return self._image(self._scene(z, shape, family), z, shape)

    def labeled_slice(self, z: float, shape: tuple[int, int], family: str) -> tuple[Tensor, Tensor]:
        """Hounsfield units of the plane at height z, and where its lesions are."""
        scene = self._scene(z, shape, family)
        lesions = torch.nn.functional.avg_pool2d(scene.canvas.covered["tumor"][None], 2)[0] >= 0.5
        return self._image(scene, z, shape), lesions.long()

    def _scene(self, z: float, shape: tuple[int, int], family: str) -> "_Scene":
        """All tissues of the plane at height z, at twice the size of the image."""
        if family not in BODY_FAMILIES:
            raise ValueError(f"body phantom: no family {family!r}, expected one of {', '.join(BODY_FAMILIES)}")
        if min(shape) < 1:
            raise ValueError(f"body phantom: shape is {tuple(shape)}, expected at least one pixel along each axis")
        scene = _Scene(self, z, (2 * shape[0], 2 * shape[1]))
        scene.canvas.watch("tumor")
        BODY_FAMILIES[family](scene)
        return scene

    def _image(self, scene: "_Scene", z: float, shape: tuple[int, int]) -> Tensor:
        """Hounsfield units of what was painted."""
        inside = coverage(scene.outline, 0.008)
        value, texture, cover = resolved(scene.canvas.layers - torch.tensor([AIR_HU, 0.0])[:, None, None], inside)
        mid, small = self.grain.at(z, shape)
        grain = texture * (0.45 * mid + 0.9 * small)
        return AIR_HU + ((value + grain) * cover).clamp_min(0)


class _Scene:
    """Coordinates, fields and canvas of one slice."""

    def __init__(self, body: _Body, z: float, shape: tuple[int, int]) -> None:
        self.body, self.z = body, z
        y, x = pixel_centers(shape)
        dx, dy = body.warp.at(z, shape)
        c, s = math.cos(body.tilt), math.sin(body.tilt)
        x, y = x + 0.02 * dx, y + 0.02 * dy
        self.x, self.y = c * x - s * y, s * x + c * y
        self.bend, self.wave = body.bend.at(z, shape)
        self.folds, self.septa = body.folds.at(z, shape)
        self.branches, self.twigs = body.branches.at(z, shape)
        self.canvas = Canvas(shape, _TISSUES, background=AIR_HU)
        self.outline = torch.zeros(shape)

    def trunk(self, width: float, height: float, fat: float, power: float = 2.4) -> Tensor:
        """Paint skin, fat and muscle of a rounded body; return the depth below the surface of the muscle."""
        radius = ((self.x.abs() / width) ** power + (self.y.abs() / height) ** power) ** (1 / power)
        self.outline = (1 - radius) * min(width, height) + 0.006 * self.bend
        self.canvas.paint("skin", self.outline)
        self.canvas.paint("fat", self.outline - 0.018)
        self.canvas.paint("strand", torch.minimum((0.10 - self.folds.abs()) / 50, self.outline - 0.03))
        depth = self.outline - fat - 0.01 * self.wave
        self.canvas.paint("muscle", depth)
        self.canvas.paint("fat", torch.minimum((0.14 - self.septa.abs()) / 45, depth - 0.01))
        return depth

    def blob(
        self, tissue: str, x: float, y: float, a: float, b: float, angle: float = 0.0, rough: float = 0.0
    ) -> Tensor:
        """Paint an ellipse with an edge of roughness ``rough``; return the distance to its edge."""
        inside = ellipse(self.x, self.y, x, y, a, b, angle) + rough * self.wave
        self.canvas.paint(tissue, inside)
        return inside

    def bone(self, x: float, y: float, a: float, b: float, angle: float = 0.0, shell: float = 0.022) -> Tensor:
        """Paint cortical bone around trabecular bone; return the distance to its edge."""
        inside = self.blob("bone", x, y, a, b, angle, 0.003)
        self.canvas.paint("marrow", inside - shell - 0.004 * self.bend)
        self.canvas.paint("bone", torch.minimum((0.12 - self.twigs.abs()) / 60, inside - shell), softness=0.014)
        return inside

    def spine(self, y: float, size: float) -> None:
        """Paint a vertebra with its canal and processes."""
        for side in (-1, 1):
            self.bone(side * 0.15 * size / 0.2, y + 0.55 * size, 0.35 * size, 0.10 * size, side * 0.5, 0.012)
        self.bone(0.0, y + 1.2 * size, 0.08 * size, 0.4 * size, 0.0, 0.012)
        self.bone(0.0, y, 1.05 * size, 0.75 * size, 0.0, 0.016)
        self.blob("bone", 0.0, y + 0.82 * size, 0.52 * size, 0.42 * size)
        self.blob("fluid", 0.0, y + 0.82 * size, 0.40 * size, 0.32 * size)
        self.blob("gray", 0.0, y + 0.82 * size, 0.20 * size, 0.16 * size)

    def lesions(self, tissue: str, inside: Tensor, count: int, scale: float) -> None:
        """Paint small round lesions within a region."""
        for x, y, r, shape in self.body.spots[:count]:
            radius = scale * (0.4 + r)
            spot = ellipse(
                self.x, self.y, 1.4 * (x - 0.5), 1.1 * (y - 0.5), radius, radius * (0.7 + 0.6 * shape), 9 * r
            )
            self.canvas.paint(tissue, torch.minimum(spot, inside - 0.01))

    def tumors(
        self, tumors: list[list[float]], inside: Tensor, center: tuple[float, float], axes: tuple[float, float]
    ) -> None:
        """Paint lesions within an organ of the given center and semi-axes."""
        for x, y, z, radius in tumors:
            height = 1 - ((self.z - z) / _TUMOR_HEIGHT) ** 2
            if height > 0:
                here = radius * math.sqrt(height)
                place = center[0] + axes[0] * x, center[1] + axes[1] * y
                spot = ellipse(self.x, self.y, *place, here, 0.85 * here, 9 * radius) + 0.006 * self.wave
                self.canvas.paint("tumor", torch.minimum(spot, inside - 0.01))


def _chest(scene: _Scene) -> None:
    body, (a, b, c, *_) = scene.body, scene.body.draws
    width, height = body.size, body.size * body.aspect
    depth = scene.trunk(width, height, 0.5 * body.fatness)
    cavity = torch.hypot(scene.x / (0.80 * width), scene.y / (0.76 * height))
    angle = torch.atan2(scene.y, scene.x)
    ring = 0.045 - (cavity - 1.0).abs()
    # Ribs run obliquely: neighboring slices meet them at other angles.
    phase = 11 * angle / (2 * math.pi) + 2.6 * scene.z + a
    rib = torch.minimum(ring * 0.6, (0.21 - (phase - phase.round()).abs()) * 0.22)
    scene.canvas.paint("bone", rib)
    scene.canvas.paint("marrow", rib - 0.013)
    scene.canvas.paint("fat", (0.93 - cavity) * 0.5)
    for side in (-1, 1):
        lung = ellipse(scene.x, scene.y, side * 0.46 * width, -0.02, 0.33 * width, 0.64 * height, side * 0.12)
        lung = torch.minimum(lung + 0.008 * scene.bend, (0.90 - cavity) * 0.5)
        scene.canvas.paint("lung", lung)
        for tree, strength in ((scene.branches, 0.20), (scene.folds, 0.13), (scene.twigs, 0.09)):
            scene.canvas.paint("blood", torch.minimum((strength - tree.abs()) / 70 - 0.0006, lung - 0.012))
        scene.canvas.paint("lung", torch.minimum((0.05 - scene.septa.abs()) / 55, lung - 0.02))
        if body.tumors is None:
            scene.lesions("muscle", lung, 8, 0.016)
        else:
            scene.tumors(
                body.tumors[max(side, 0) :: 2], lung, (side * 0.46 * width, -0.02), (0.33 * width, 0.64 * height)
            )
    heart = scene.blob("muscle", 0.10 * width, -0.12 * height, 0.30 * width, 0.34 * height, 0.5 + 0.3 * b, 0.008)
    scene.blob("blood", 0.16 * width, -0.14 * height, 0.13 * width, 0.19 * height, 0.6)
    scene.blob("blood", -0.02 * width, -0.18 * height, 0.11 * width, 0.15 * height, 0.2)
    scene.canvas.paint("fat", torch.minimum((0.16 - scene.folds.abs()) / 50, 0.02 - (heart - 0.01).abs()))
    scene.blob("blood", 0.13 * width, 0.34 * height, 0.052, 0.052)
    for side in (-1, 1):
        scene.blob("muscle", side * 0.075 - 0.02, 0.16 * height, 0.042, 0.042)
        scene.blob("air", side * 0.075 - 0.02, 0.16 * height, 0.031, 0.031)
    scene.bone(0.0, -0.84 * height, 0.09, 0.032, 0.0, 0.012)
    scene.spine(0.52 * height + 0.02 * c, 0.115)
    scene.canvas.paint("fat", torch.minimum((0.05 - scene.twigs.abs()) / 60, torch.minimum(depth, 0.10 - depth)))


def _abdomen(scene: _Scene) -> None:
    body, (a, b, c, d, *_) = scene.body, scene.body.draws
    width, height = body.size * 1.02, body.size * body.aspect * 1.05
    scene.trunk(width, height, body.fatness)
    cavity = 1 - torch.hypot(scene.x / (0.86 * width - body.fatness), scene.y / (0.82 * height - body.fatness))
    scene.canvas.paint("fat", cavity * 0.5)
    mesentery = torch.minimum((0.17 - scene.branches.abs()) / 55, cavity * 0.5 - 0.01)
    scene.canvas.paint("strand", mesentery)
    scene.canvas.paint("blood", torch.minimum((0.06 - scene.folds.abs()) / 45, cavity * 0.5 - 0.02))
    liver = ellipse(scene.x, scene.y, -0.42 * width, -0.12 * height, 0.40 * width, 0.56 * height, 0.25 + 0.2 * a)
    liver = torch.minimum(liver + 0.012 * scene.bend, cavity * 0.5 - 0.004)
    scene.canvas.paint("organ", liver)
    for tree, strength in ((scene.branches, 0.17), (scene.septa, 0.12)):
        scene.canvas.paint("blood", torch.minimum((strength - tree.abs()) / 60 - 0.0006, liver - 0.02))
    scene.lesions("lesion", liver, 9, 0.026)
    spleen = scene.blob("organ", 0.58 * width, 0.10 * height, 0.13 * width, 0.30 * height, -0.3 - 0.2 * b, 0.006)
    scene.canvas.paint("blood", torch.minimum((0.10 - scene.twigs.abs()) / 70, spleen - 0.02))
    for side in (-1, 1):
        kidney = scene.blob("kidney", side * 0.42 * width, 0.40 * height, 0.115, 0.15, side * 0.4, 0.005)
        scene.canvas.paint("organ", torch.minimum((0.35 - scene.folds.abs()) / 45, kidney - 0.03))
        scene.canvas.paint("fat", kidney - 0.075 - 0.01 * scene.bend)
    for x, y, r, fill in scene.body.spots[:10]:
        radius = 0.05 + 0.05 * r
        center = 0.20 * width + 0.75 * width * (x - 0.5), -0.30 * height + 0.55 * height * (y - 0.5)
        loop = scene.blob("muscle", *center, radius, radius * (0.7 + 0.5 * fill), 7 * r, 0.008)
        scene.canvas.paint("air" if fill > 0.6 else "fluid", loop - 0.018)
    scene.blob("blood", 0.05, 0.24 * height, 0.058, 0.058)
    scene.blob("blood", -0.09, 0.25 * height, 0.06, 0.045)
    scene.spine(0.46 * height + 0.03 * (c - 0.5), 0.135 + 0.01 * d)


def _pelvis(scene: _Scene) -> None:
    body, (a, b, c, *_) = scene.body, scene.body.draws
    width, height = body.size * 1.04, body.size * body.aspect * 0.95
    scene.trunk(width, height, 1.2 * body.fatness)
    inner = 1 - torch.hypot(scene.x / (0.44 * width), (scene.y + 0.02) / (0.52 * height))
    scene.canvas.paint("fat", inner * 0.4)
    scene.canvas.paint("strand", torch.minimum((0.18 - scene.branches.abs()) / 55, inner * 0.4 - 0.01))
    scene.canvas.paint("blood", torch.minimum((0.05 - scene.folds.abs()) / 45, inner * 0.4))
    for side in (-1, 1):
        turn = side * (0.5 + 0.3 * scene.z)
        scene.bone(side * 0.40 * width, -0.02, 0.05, 0.26 * height, turn, 0.018)
        scene.blob("cartilage", side * 0.56 * width, 0.06, 0.155, 0.155)
        scene.bone(side * 0.57 * width, 0.06, 0.140, 0.140, 0.0, 0.015)
        scene.bone(side * (0.74 * width - 0.01), 0.14, 0.075, 0.10, side * 0.4, 0.020)
        scene.blob("blood", side * 0.36 * width, -0.42 * height, 0.036, 0.036)
        scene.blob("blood", side * 0.30 * width, -0.46 * height, 0.030, 0.024)
    bladder = scene.blob("muscle", 0.0, -0.16 * height, 0.20 + 0.06 * a, 0.15 + 0.05 * b, 0.0, 0.01)
    scene.canvas.paint("fluid", bladder - 0.018)
    rectum = scene.blob("muscle", 0.02, 0.34 * height, 0.085, 0.07, 0.3 * c, 0.01)
    scene.canvas.paint("air", rectum - 0.03 + 0.012 * scene.bend)
    scene.bone(0.0, 0.62 * height, 0.17, 0.055, 0.0, 0.014)
    scene.lesions("lesion", torch.minimum(inner * 0.4, torch.ones_like(inner)), 6, 0.02)


def _head(scene: _Scene) -> None:
    a, b, c, *_ = scene.body.draws
    width, height = 0.68 + 0.06 * a, 0.84 + 0.05 * b
    scene.trunk(width, height, 0.035)
    depth = scene.outline
    skull = depth - 0.052
    scene.canvas.paint("bone", skull)
    thickness = 0.062 + 0.010 * scene.bend
    scene.canvas.paint("marrow", torch.minimum(skull - 0.018, thickness - 0.016 - skull))
    scene.canvas.paint("bone", torch.minimum((0.15 - scene.twigs.abs()) / 60, 0.022 - (skull - 0.03).abs()))
    brain = skull - thickness
    scene.canvas.paint("fluid", brain)
    opened = ((0.22 - brain) / 0.18).clamp(0, 1)
    scene.canvas.paint("gray", brain - 0.012)
    scene.canvas.paint("white", torch.minimum((scene.folds.abs() - 1.1 * opened) / 40, brain - 0.05) - 0.002)
    scene.canvas.paint("fluid", torch.minimum((0.30 * opened - 0.04 - scene.folds.abs()) / 40, brain))
    scene.canvas.paint("blood", torch.minimum((0.05 - scene.branches.abs()) / 55, 0.05 - (brain - 0.03).abs()))
    side = scene.x.abs()
    for x, y, rx, ry, angle in ((0.07, -0.16, 0.042, 0.15, -0.4), (0.13, 0.22, 0.045, 0.16, 0.4)):
        inside = ellipse(side, scene.y, x * (0.8 + 0.5 * c), y, rx, ry, angle)
        scene.canvas.paint("fluid", inside)
    for x in (0.16, 0.24):
        scene.canvas.paint("gray", ellipse(side, scene.y, x, -0.03, 0.05, 0.14, -0.25))
    scene.canvas.paint("blood", 0.008 - torch.hypot(scene.x * 0.25, 0.4 * (brain - 0.02)))
    if scene.z < 0:
        for x in (-0.10, 0.10):
            scene.blob("air", x, -0.80 * height, 0.07, 0.05, 0.0, 0.008)
    scene.lesions("blood", brain - 0.05, 4, 0.03)
    scene.lesions("fluid", brain - 0.05, 7, 0.012)


def _knee(scene: _Scene) -> None:
    a, b, c, *_ = scene.body.draws
    width, height = 0.74 + 0.08 * a, 0.80 + 0.05 * b
    depth = scene.trunk(width, height, 0.09, power=2.1)
    scene.canvas.paint("fat", torch.minimum((0.30 - scene.bend.abs()) / 25, depth - 0.02))
    scene.canvas.paint("strand", torch.minimum((0.12 - scene.branches.abs()) / 60, depth))
    for side in (-1, 1):
        scene.blob("cartilage", side * 0.24, 0.0, 0.31, 0.33, side * 0.25, 0.006)
    femur = torch.maximum(
        *(ellipse(scene.x, scene.y, side * 0.24, 0.0, 0.29, 0.31, side * 0.25) for side in (-1.0, 1.0))
    )
    femur = femur + 0.005 * scene.wave
    scene.canvas.paint("bone", femur)
    scene.canvas.paint("marrow", femur - 0.022)
    for tree, strength in ((scene.twigs, 0.30), (scene.branches, 0.22), (scene.folds, 0.10)):
        scene.canvas.paint("bone", torch.minimum((strength - tree.abs()) / 75, femur - 0.022), softness=0.016)
    scene.blob("cartilage", 0.02, -0.50, 0.27, 0.10 + 0.02 * c)
    scene.bone(0.02, -0.52, 0.24, 0.085, 0.0, 0.018)
    scene.blob("fluid", 0.0, -0.38, 0.30, 0.028)
    for x, y in ((-0.05, 0.48), (0.08, 0.52)):
        scene.blob("blood", x, y, 0.034, 0.034)
    scene.lesions("fluid", femur - 0.03, 5, 0.022)


#: Regions of the body by name.
BODY_FAMILIES = {"chest": _chest, "abdomen": _abdomen, "pelvis": _pelvis, "head": _head, "knee": _knee}
