"""Coverage of conformal label sets at sites that are alike or differ, simulated, where the truth is known.

    OMP_NUM_THREADS=1 python benchmarks/label_sets.py [--draws 300]

Five sites calibrate their sets on a few people of five slices each, see `recon.control_label_sets`. People differ by
0.8 in the logit of their slices, sites by equal steps up to the stated difference between the first and the last.
"""

import argparse

import numpy as np

from recon import LossCurve, PersonPrediction, control_label_sets, loss_curves
from recon.tasks.label_sets import THRESHOLDS

WANTED, SITES, SLICES, SPREAD = 0.9, 5, 5, 0.8
#: Least mean coverage of a site where enough people are there to say anything.
BAR = 0.885


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=300, help="calibrations (default: %(default)s)")
    draws = parser.parse_args().draws
    print("people  difference  coverage by site, easiest first      no set  people borrowed")
    least = 1.0
    for people in (6, 12, 30):
        for difference in (0.0, 1.2, 2.4):
            coverages, none, borrowed = simulate(people, difference, draws)
            least = min(least, *coverages)
            shown = "  ".join(f"{value:.3f}" for value in coverages)
            print(f"{people:6d}  {difference:10.1f}  {shown}  {none:6.0%}  {borrowed:15.1f}")
    print(f"least coverage {least:.3f}, bar {BAR}: {'holds' if least >= BAR else 'fails'}")


def simulate(people: int, difference: float, draws: int) -> tuple[list[float], float, float]:
    """Mean coverage of a further person at every site, part of the sites without a set, mean people borrowed."""
    shifts = np.linspace(-difference / 2, difference / 2, SITES)
    exact = [1 - curve(2000, shift, np.random.default_rng(99)).mean for shift in shifts]
    rng = np.random.default_rng(0)
    found: list[list[float]] = [[] for _ in shifts]
    none, borrowed = 0, []
    for _ in range(draws):
        curves = {str(site): curve(people, shift, rng) for site, shift in enumerate(shifts)}
        for site, control in control_label_sets(curves, WANTED).items():
            borrowed.append(control.borrowed)
            if control.threshold is None:
                none += 1
            else:
                found[int(site)].append(float(exact[int(site)][control.threshold == THRESHOLDS].item()))
    return [float(np.mean(values)) for values in found], none / (draws * SITES), float(np.mean(borrowed))


def curve(people: int, shift: float, rng: np.random.Generator) -> LossCurve:
    """What a site with so many people tells; a larger shift makes its slices harder."""
    drawn = []
    for person in range(people):
        truth = rng.random((SLICES, 1)) < 0.4
        own = 1.5 + SPREAD * rng.normal() - shift
        logit = np.where(truth, own, -own) + rng.normal(size=truth.shape)
        drawn.append(PersonPrediction(str(person), truth.astype(np.float32), 1 / (1 + np.exp(-logit))))
    return loss_curves("classification", ["lesion"], drawn)["lesion"]


if __name__ == "__main__":
    main()
