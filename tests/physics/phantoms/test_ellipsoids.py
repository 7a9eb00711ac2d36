"""Line integrals of ellipsoids."""

import numpy as np
import pytest

from physics import Ellipsoid, EllipsoidPhantom


def test_line_integrals_agree_with_sums_along_the_rays():
    phantom = EllipsoidPhantom(
        (Ellipsoid(0.02, (5, -3, 2), (60, 40, 30), 0.5), Ellipsoid(-0.01, (10, 0, 0), (9, 9, 9)))
    )
    generator = np.random.default_rng(0)
    source = np.array([200.0, 30.0, -20.0])
    ends = generator.uniform(-30, 30, (40, 3))
    directions = (ends - source) / np.linalg.norm(ends - source, axis=1, keepdims=True)
    steps = np.arange(0, 400, 1.0)
    points = source + directions[:, None] * steps[:, None]
    summed = [sum(phantom.slice(z, np.array([x]), np.array([y])).item() for x, y, z in row) for row in points]
    assert phantom.line_integrals(source, directions) == pytest.approx(np.array(summed), abs=0.03)
    assert phantom.line_integrals(source, -directions) == pytest.approx(phantom.line_integrals(source, directions))


def test_a_ray_through_the_middle_of_a_ball_has_its_diameter():
    ball = EllipsoidPhantom((Ellipsoid(0.02, (0, 0, 0), (50, 50, 50)),))
    along_z = ball.line_integrals(np.array([0.0, 0.0, -300.0]), np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    assert along_z == pytest.approx([2.0, 0.0])
