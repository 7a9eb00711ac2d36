"""Reconstruct one file with a trained run."""

from pathlib import Path

import torch

from recon import DataError, SiteScores, evaluate, reconstruct, write_hdf5

from .personal_stage import site_network
from .run_folder import RunFolder
from .task import ReconstructionTask


def reconstruct_file(
    path: Path | str, site: str, scan: Path | str, out: Path | str, *, simulate: bool = False
) -> tuple[tuple[int, ...], SiteScores]:
    """Reconstruct a scan with the network that a site of the run uses.

    Parameters
    ----------
    path
        Folder of a trained run.
    site
        A site of the run; an unseen one has the initial kept parameters.
    scan
        A file in the format of the site.
    out
        HDF5 file to write: ``reconstruction`` ``(slices, height, width)``, magnitudes in MRI, attenuation in CT, and
        ``image``, in MRI complex and on the encoded grid; in the units of the coil images of the file, or in 1/mm.
    simulate
        Apply ``[simulate]`` of the manifest to the scan, and score against the scan as measured.

    Returns
    -------
        Shape of the reconstruction, and its scores.

    Raises
    ------
    DataError
        If the run, the site or the scan cannot be used.
    """
    run = RunFolder.open(path)
    manifest = run.manifest(site)
    if simulate and manifest.simulate is None:
        raise DataError(f"{manifest.path}: has no [simulate] to apply; leave out --simulate")
    state = run.selected()
    network = site_network(run, manifest)
    samples = manifest.samples([Path(scan)], degraded=simulate, maps_folder=run.maps_folder(site))
    magnitudes, images = [], []
    network.eval()
    with ReconstructionTask(manifest, run.recipe, run.maps_folder(site)).at_work(network):
        with torch.no_grad():
            for index in range(len(samples)):
                sample = samples[index]
                image = reconstruct(network, sample)
                images.append(image * sample.scale)
                magnitudes.append(sample.magnitude(image) * sample.scale)
        scores = evaluate(network, samples)
    reconstruction = torch.stack(magnitudes).numpy()
    attributes = {
        "site": site,
        "recipe": run.recipe.name,
        "recipe_digest": run.recipe.digest(),
        "round": state.round,
    }
    write_hdf5(Path(out), {"reconstruction": reconstruction, "image": torch.stack(images).numpy()}, attributes)
    return reconstruction.shape, scores
