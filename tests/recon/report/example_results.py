"""Results of a small run for the tests of its report."""

import numpy as np

ARMS = {"zero_filled": 0.0, "tv": 4.0, "fedavg": 5.5}
#: Of a slice: the reference, image and error of every arm, fedavg minus every other arm of a site of MRI.
PICTURES = 1 + 2 * len(ARMS) + 1
SITES = {"north": 26.0, "clinic": 28.0, "unseen": 24.0}


def example_results():
    """Three arms, a simulated, a measured and an unseen site; three rounds, the last only evaluates."""
    rng = np.random.default_rng(0)
    arms = {}
    for arm, gain in ARMS.items():
        arms[arm] = {"sites": {site: site_scores(site, start + gain) for site, start in SITES.items()}}
    curves = [
        {
            "round": index,
            "site": site,
            "bytes_down": 2048,
            "bytes_up": 100 if index == 2 else 2100,
            "score_before": 27.0 + index,
            "score_after": None if index == 2 else 27.5 + index,
            "loss": None if index == 2 else 0.02 / (index + 1),
            "seconds": 1.5,
        }
        for index in range(3)
        for site in ("north", "clinic")
    ]
    return {
        "metric_card": {"data_range": "maximum of the reference volume", "crop": "center, to 16x12"},
        "arms": arms,
        "bytes": {"up_per_round": 4200, "down_per_round": 4096},
        "seconds": 492.4,
        "versions": {"fedrecon": "0.1.0", "torch": "2.6.0"},
        "sites": {
            "north": site_facts(synthetic=True),
            "clinic": site_facts(synthetic=False),
            "unseen": site_facts(synthetic=True, unseen=True),
        },
        "recipe": 'name = "fedavg"\n',
        "claims": ["fedavg is above tv at every site"],
        "curves": curves,
        "pictures": {
            site: [
                {
                    "name": name,
                    "where": f"{site}_0.h5, slice {number} of 2",
                    "images": {arm: rng.random((16, 12), dtype=np.float32) for arm in ("reference", *ARMS)},
                }
                for number, name in enumerate(("median PSNR", "worst PSNR"), 1)
            ]
            for site in SITES
        },
    }


def site_scores(site, value):
    volumes = [
        {"volume": f"{site}_{i}.h5", "slices": 2, "psnr": value + d, "ssim": value / 40, "nmse": 1 / value}
        for i, d in enumerate((-1.0, 1.0))
    ]
    return {"psnr": value, "ssim": value / 40, "nmse": 1 / value, "volumes": volumes}


def site_facts(**more):
    facts = {
        "modality": "mri",
        "coils": [8],
        "maps": "espirit",
        "sampling": "random",
        "effective_acceleration": 3.9,
        "noise_std": 0.01,
    }
    counts = {
        "parameters_shared": 12345,
        "parameters_kept": 5,
        "split": {"train": 10, "validation": 4, "test": 4},
    }
    return facts | counts | more
