# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # CT operators: from a geometry to an unrolled network
#
# A scan is a *value*: an image grid and a beam. `RadonOperator(grid, beam)` maps an image of attenuation (1/mm) to line
# integrals `(views, detectors)`. Its adjoint is the exact transpose; each is the derivative of the other. Row 0 is at
# the top (+y); a parallel ray at view angle t and detector position u is `x cos t + y sin t = u`.

# %%
import math
import time

import matplotlib.pyplot as plt
import torch

from physics import (
    FanBeam,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    Transmission,
    attenuation_to_hu,
    body_phantom,
    check_operator,
    evenly_spaced,
    filtered_backprojection,
    hu_to_attenuation,
    lodopab,
    shepp_logan,
    simulate_counts,
)
from recon import (
    CT_SCALE,
    ConvRegularizer,
    FilteredBackprojection,
    NormalizedStep,
    PenalizedTV,
    Sample,
    SampleMeta,
    UnrolledNetwork,
    evaluate,
    train_locally,
)

torch.manual_seed(0)
size, fov = 128, 340.0
grid = ImageGrid((size, size), fov / size)


def show(images, titles):
    """Attenuation in the soft-tissue window, -160 to 240 HU."""
    _, axes = plt.subplots(1, len(images), figsize=(3.2 * len(images), 3.4))
    for ax, image, title in zip(axes, images, titles, strict=True):
        ax.imshow(attenuation_to_hu(image), cmap="gray", vmin=-160, vmax=240)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    plt.tight_layout()
    plt.show()


def psnr(image, truth):
    return 10 * math.log10(float(truth.max() ** 2 / (image - truth).square().mean()))


# %% [markdown]
# ## Geometry
# The repr of a geometry is a valid constructor call. `subset` takes a slice, indices or a mask of views.

# %%
parallel = ParallelBeam(evenly_spaced(180, math.pi / 180), 184, fov * math.sqrt(2) / 184)
fan = FanBeam(evenly_spaced(180, 2 * math.pi / 180), 184, 5.1, source_to_axis_mm=595.0, source_to_detector_mm=1085.6)
print(fan)
print(fan.subset(slice(None, None, 6)).shape, "sparse views;", fan.subset(range(60)).shape, "limited angle")

# %% [markdown]
# ## Sinogram
# The object is a random abdomen. Its grid is twice as fine as that of the reconstruction.

# %%
fine_grid = grid.refined(2)
fine = hu_to_attenuation(body_phantom(fine_grid.shape, seed=5, family="abdomen"))
truth = torch.nn.functional.avg_pool2d(fine[None], 2)[0]

_, axes = plt.subplots(1, 3, figsize=(11, 3.4))
axes[0].imshow(attenuation_to_hu(truth), cmap="gray", vmin=-160, vmax=240)
for ax, beam in zip(axes[1:], (parallel, fan), strict=True):
    ax.imshow(RadonOperator(grid, beam)(truth), cmap="gray", aspect="auto")
    ax.set(title=type(beam).__name__, xlabel="detector", ylabel="view")
plt.tight_layout()
plt.show()

# %% [markdown]
# `check_operator` checks every property that an operator must have. For a small scan the matrix can be written down.

# %%
small = RadonOperator(ImageGrid((12, 12), 1.0), ParallelBeam(evenly_spaced(7, 0.4), 17, 1.0))
print({name: f"{error:.1e}" for name, error in check_operator(RadonOperator.example(torch.Generator())).items()})
matrix = torch.stack([small(e.reshape(1, 12, 12)).flatten() for e in torch.eye(144).double()], 1)
transpose = torch.stack([small.adjoint(e.reshape(1, 7, 17)).flatten() for e in torch.eye(119).double()])
print("adjoint is the exact transpose:", torch.equal(matrix, transpose))

# %% [markdown]
# In a batch, pixel indices and weights are computed once for all images; a single image uses symmetries of the scan
# instead. The scan of LoDoPaB-CT, 1000 views of 513 elements:

# %%
preset = lodopab()
A = RadonOperator(preset.grid, preset.geometry)
for batch in (1, 8):
    x = torch.ones(batch, *preset.grid.shape)
    A(x)  # compiles the kernels, or loads compiled ones
    begin = time.perf_counter()
    A(x)
    print(f"batch {batch}: {1e3 * (time.perf_counter() - begin) / batch:.0f} ms per image")

# %% [markdown]
# ## Filtered back-projection
# Input is the *analytic* sinogram of the Shepp-Logan head, independent of our projector. The ramp filter is sharp;
# windows exchange sharpness for less noise.

# %%
lines = shepp_logan().line_integrals(fan, fov)
exact = shepp_logan().attenuation(grid, fov)
for window in ("ramp", "shepp_logan", "cosine", "hann"):
    print(f"{window:12s} {psnr(filtered_backprojection(lines, fan, grid, window=window), exact):.2f} dB without noise")

# %% [markdown]
# ## Dose
# The detector counts photons: Poisson noise, electronic noise, several rays per detector element. Line integrals are
# noisy where few photons arrive; the weight of each ray is the inverse of its noise.

# %%
images, titles = [truth], ["truth"]
for photons in (1e6, 5e4, 5e3):
    model = Transmission(photons, electronic_noise=10.0)
    counts = simulate_counts(fine, fine_grid, fan, model, torch.Generator().manual_seed(1))
    image = filtered_backprojection(model.line_integrals(counts), fan, grid)
    images.append(image)
    titles.append(f"FBP, {photons:.0e} photons\n{psnr(image, truth):.1f} dB")
show(images, titles)

# %% [markdown]
# ## Sparse views and limited angles
# Operator and measurement are both multiplied by the weights of the rays: `RadonOperator(grid, scan, weights)`.

# %%
model = Transmission(5e4, electronic_noise=10.0)
scans = {"180 views": fan, "30 views": fan.subset(slice(None, None, 6)), "120 degrees": fan.subset(range(60))}
problems = {}
for name, scan in scans.items():
    counts = simulate_counts(fine, fine_grid, scan, model, torch.Generator().manual_seed(2))
    weights = model.ray_weights(counts)
    problems[name] = (weights * model.line_integrals(counts), RadonOperator(grid, scan, weights))

for method in (FilteredBackprojection(), PenalizedTV(1e-3)):
    found = [method(*problem) for problem in problems.values()]
    show(found, [f"{type(method).__name__}, {n}\n{psnr(x, truth):.1f} dB" for n, x in zip(scans, found, strict=True)])

# %% [markdown]
# ## Total variation against an unrolled network
# The network class of the MRI notebook with another operator: filtered back-projection, then six times a
# data-consistency step (normalized by row and column sums, as in SIRT) and a small CNN. Image values are attenuation
# relative to water. Training takes a minute, on sixteen slices.


# %%
def measured(seed: int) -> Sample:
    scan = scans["30 views"]
    body = hu_to_attenuation(body_phantom(fine_grid.shape, seed, "abdomen"))
    counts = simulate_counts(body, fine_grid, scan, model, torch.Generator().manual_seed(seed))
    weights = model.ray_weights(counts)
    return Sample(
        measurement=weights * model.line_integrals(counts) / CT_SCALE,
        operator=RadonOperator(grid, scan, weights),
        noise_std=torch.tensor(0.0),
        reference=torch.nn.functional.avg_pool2d(body[None], 2)[0] / CT_SCALE,
        scale=torch.tensor(CT_SCALE),
        condition=None,
        meta=(SampleMeta("notebook", f"body {seed}", 0, 6.0, "attenuation"),),
    )


training = [measured(seed) for seed in range(100, 116)]
testing = [measured(seed) for seed in range(4)]
network = UnrolledNetwork(6, NormalizedStep, lambda: ConvRegularizer(12, 3))
for rate in (5e-3, 1e-3):
    result = train_locally(network, training, steps=100, batch_size=1, learning_rate=rate)
    print(f"loss {result.losses[0]:.4f} -> {result.losses[-1]:.4f}")

# %%
methods = {"FBP": FilteredBackprojection(0.5), "TV": PenalizedTV(1.2e-3), "unrolled": network}
for name, method in methods.items():
    print(f"{name:9s} {evaluate(method, testing).mean('psnr'):.2f} dB on 4 bodies")
sample = testing[1]
y, operator = sample.measurement, sample.operator
with torch.no_grad():
    found = [method(y[None], RadonOperator.collate([operator]))[0] * CT_SCALE for method in methods.values()]
show([sample.reference * CT_SCALE, *found], ["truth", *methods])
