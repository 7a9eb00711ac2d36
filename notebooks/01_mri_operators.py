# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # MRI operators: from a phantom to an unrolled network
#
# Every acquisition is an *operator* `A`: `A(x)` is the k-space of the image `x`, `A.adjoint(y)` applies the adjoint,
# and both are differentiable. A network is called as `network(y, A)`: the physics is an argument, not part of the
# weights. Axes are `(coils, readout, phase)`; Fourier transforms are centered and orthonormal.

# %%
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from physics import (
    CartesianMRI,
    CoilMaps,
    FourierTransform,
    Sampling,
    birdcage_maps,
    check_operator,
    complex_noise,
    equispaced_mask,
    espirit_maps,
    fft2c,
    gaussian_mask,
    ifft2c,
    low_resolution_maps,
    partial_fourier_mask,
    phantom_volume,
    poisson_mask,
    random_mask,
    root_sum_of_squares,
)
from recon import (
    CGSense,
    GradientStep,
    Sample,
    SampleMeta,
    TotalVariation,
    UNetRegularizer,
    UnrolledNetwork,
    ZeroFilled,
    evaluate,
    train_locally,
)

torch.manual_seed(0)
size = 96


def show(images: dict[str, torch.Tensor], columns: int = 4, **options: object) -> None:
    rows = math.ceil(len(images) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, images.items(), strict=False):
        axis.imshow(image.abs().numpy(), cmap="gray", **options)
        axis.set_title(title, fontsize=10)
    figure.tight_layout()
    plt.show()


# %% [markdown]
# ## An object, its coils, its k-space
# Phantoms are random: the seed sets the anatomy, the family the contrast. Their phase is smooth.

# %%
volume = phantom_volume(12, (size, size), 3, "t1")
image = volume[5]
maps = birdcage_maps(4, (size, size), seed=1)
show({"phantom": image, **{f"coil {c}": maps[c] * image for c in range(3)}})

# %% [markdown]
# ## The operator and its test
# The same acquisition can be composed of simpler operators; `CartesianMRI` is faster. `check_operator` measures the
# errors of linearity, adjoint, closed-form Gram, norm bound, gradients and batches, and checks that no state is stored.

# %%
mask = random_mask(size, acceleration=4, center_fraction=0.08, seed=7)
A = CartesianMRI(maps, mask.mask)
parts = Sampling(mask.mask, (4, size, size)) @ FourierTransform((4, size, size)) @ CoilMaps(maps)
print(A)
print(f"nominal acceleration 4, effective {mask.effective_acceleration:.2f}")
print(f"difference to the composed operator {(A(image) - parts(image)).abs().max():.1e}")
for name, error in check_operator(A).items():
    print(f"{name:14s} {error:.1e}")

# %% [markdown]
# ## Masks and their point-spread functions
# The point-spread function is the zero-filled image of a single bright pixel. Equispaced sampling folds the image onto
# itself a few times; random sampling spreads the same energy like noise. The 2-D masks are for slices of 3-D scans, in
# which both axes are phase-encoded: they do not replace column masks.

# %%
masks = {
    "random": random_mask(size, 4, 0.08, 7),
    "equispaced": equispaced_mask(size, 4, 0.08, 7),
    "partial Fourier": partial_fourier_mask(size, 3, 0.08, 7),
    "Poisson (ky, kz)": poisson_mask((size, size), 6, 0.1, 7),
    "Gaussian (ky, kz)": gaussian_mask((size, size), 6, 0.1, 7),
}
show(
    {f"{n}, effective {m.effective_acceleration:.2f}": m.mask.expand(size, size).float() for n, m in masks.items()},
    5,
)
point = torch.zeros(size, size, dtype=torch.complex64)
point[size // 2, size // 2] = 1
spread = {name: ifft2c(fft2c(point) * m.mask).abs() for name, m in masks.items()}
show({f"spread: {name}": (psf / psf.max()) ** 0.5 for name, psf in spread.items()}, 5)

# %% [markdown]
# ## Coil maps from the measurement itself
# Maps are estimated from the measured samples alone.

# %%
noise_std = 0.01
y = (A(image) + complex_noise((4, size, size), noise_std, torch.Generator().manual_seed(1))) * mask.mask
estimates = {
    "ESPIRiT": espirit_maps(y, mask.center_lines),
    "low resolution": low_resolution_maps(y, mask.mask),
}
inside = image.abs() > 0.1
for name, estimate in estimates.items():
    coil_images = maps * image
    explained = (
        estimate * (estimate.conj() * coil_images).sum(0) / root_sum_of_squares(estimate).square().clamp_min(1e-6)
    )
    error = ((coil_images - explained)[:, inside].norm() / coil_images[:, inside].norm()).item()
    print(f"{name:15s} relative error of the coil images projected onto the maps, inside the object: {error:.1%}")
show({"true, coil 0": maps[0], **{f"{name}, coil 0": estimate[0] for name, estimate in estimates.items()}}, 3)

# %% [markdown]
# ## CG-SENSE and TV against an unrolled network
# All are called as `method(y, A)`. The network is trained for a minute on slices of other phantoms. In a federation,
# its regularizers would be shared and its data-consistency layers kept at the site.


# %%
def sample(picture: torch.Tensor, number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    sampling = random_mask(size, 4, 0.08, number)
    true_maps = birdcage_maps(4, (size, size), seed=number % 5)
    measured = CartesianMRI(true_maps, sampling.mask)(picture)
    measured = measured + complex_noise((4, size, size), noise_std, generator) * sampling.mask
    operator = CartesianMRI(espirit_maps(measured, sampling.center_lines), sampling.mask)
    # The reference has the phase of the estimated maps, like one combined from measured coil images.
    reference = (operator.maps.conj() * (true_maps * picture)).sum(0)
    meta = SampleMeta("notebook", f"slice_{number}", 0, sampling.effective_acceleration, "coil_combined")
    return Sample(measured, operator, torch.tensor(noise_std), reference, torch.tensor(1.0), None, (meta,))


training = [
    sample(picture, 100 + 10 * seed + i)
    for seed in range(8)
    for i, picture in enumerate(phantom_volume(6, (size, size), 50 + seed, "t1"))
]
test = [sample(picture, 900 + i) for i, picture in enumerate(volume[2:8])]

network = UnrolledNetwork(4, GradientStep, lambda: UNetRegularizer(8, 2))
print(f"{sum(p.numel() for p in network.parameters())} parameters")
result = train_locally(network, training, steps=250, batch_size=1, learning_rate=2e-3, loss="l1_ssim", seed=1)
print(f"loss {result.losses[0]:.3f} -> {sum(result.losses[-20:]) / 20:.3f}")

# %%
methods = {
    "zero-filled": ZeroFilled(),
    "CG-SENSE": CGSense(1e-2),
    "TV": TotalVariation(5e-3),
    "unrolled": network,
}
for name, method in methods.items():
    scores = evaluate(method, test)
    print(f"{name:12s} PSNR {scores.mean('psnr'):.2f} dB   SSIM {scores.mean('ssim'):.3f}")

# %%
one = test[3]
images = {
    name: method(one.measurement[None], CartesianMRI.collate([one.operator]))[0] for name, method in methods.items()
}
images = {name: found.detach() for name, found in images.items()}
show({"reference": one.target(), **images}, 5, vmin=0, vmax=1)
show(
    {f"5 x error of {name}": 5 * (one.magnitude(found) - one.target()) for name, found in images.items()},
    4,
    vmin=0,
    vmax=1,
)

# %% [markdown]
# ## The same network, another scanner
# The operator is an argument, so the network can be called with a mask that it has never seen. Its data-consistency
# parameters were trained for the old mask; therefore every site keeps its own.

# %%
other = [
    replace(s, operator=s.operator.restrict(equispaced_mask(size, 2, 0.08, 1).mask), measurement=s.measurement)
    for s in test
]
other = [replace(s, measurement=s.measurement * s.operator.mask) for s in other]
for name, method in methods.items():
    print(f"{name:12s} PSNR {evaluate(method, other).mean('psnr'):.2f} dB at half of the samples")
