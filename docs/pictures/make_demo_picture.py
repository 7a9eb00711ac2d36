"""Draw docs/pictures/demo.png from a finished run of `make demo`: python docs/pictures/make_demo_picture.py [RUN]."""

import sys
from pathlib import Path

import h5py
import matplotlib
import numpy as np
from PIL import Image

from recon import psnr
from recon.report.pictures import ERROR_MAGNIFICATION

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SITE = "north"
ARMS = {"tv": "TV, tuned", "local": "local training", "fedavg_mri": "federated"}


def middle_slice(run: Path, site: str) -> dict[str, np.ndarray]:
    """Magnitudes of reference and arms: the middle slice of the first volume."""
    with h5py.File(run / "test" / f"{site}.h5") as file:
        number = int((file["volume"][:] == file["volume"][0]).sum()) // 2
        images = {name: file[f"images/{name}"][number] for name in ARMS}
        return {name: np.abs(image) for name, image in ({"reference": file["reference"][number]} | images).items()}


def draw(images: dict[str, np.ndarray], out: Path) -> None:
    """One row of images, one row of error maps on the gray scale of the report."""
    reference = images["reference"]
    height, width = reference.shape
    figure, axes = plt.subplots(2, len(images), figsize=(2 * len(images), 4.5 * height / width), dpi=110)
    scale = {"cmap": "gray", "vmin": 0, "vmax": reference.max(), "interpolation": "nearest"}
    for column, (name, image) in enumerate(images.items()):
        score = "" if name == "reference" else f"\n{psnr(reference[None], image[None]):.1f} dB"
        axes[0, column].imshow(image, **scale)
        axes[0, column].set_title(ARMS.get(name, name) + score, fontsize=10)
        if name != "reference":
            axes[1, column].imshow(ERROR_MAGNIFICATION * np.abs(image - reference), **scale)
    axes[1, 0].text(0.5, 0.5, f"error\nx {ERROR_MAGNIFICATION}", ha="center", va="center", fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).convert("L").save(out, optimize=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    draw(middle_slice(folder, SITE), Path(__file__).with_name("demo.png"))
