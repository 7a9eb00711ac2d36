"""Differentiable forward operators, sampling, coil maps, noise, phantoms and solvers, without networks.

Conventions:

- Complex tensors are native. Fourier transforms are centered (zero frequency at ``n // 2``) and orthonormal.
- Axes: k-space ``(*batch, coils, readout, phase)``, images ``(*batch, height, width)``, row 0 at the top. The
  readout is the height, the phase-encoding direction the width. Trailing axes belong to the operator.
- Frames stand before the coils, ``(*batch, frames, coils, readout, phase)`` and ``(*batch, frames, height, width)``; a
  volume is ``(*batch, coils, readout, phase, partition)``.
- CT sinograms are ``(*batch, views, detectors)``; a parallel ray is ``x cos t + y sin t = u`` with +y at the top.
- Lengths in mm, angles in rad, attenuation in 1/mm, field strength in T.
- A noise level is ``sqrt(E |n|^2)`` per complex sample.
"""

import lazy_loader

# The names stand in __init__.pyi; each is imported when it is first used, so that `import physics` is fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
