"""Differential privacy of a run: what is said before the training, and epsilon of every site after it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..privacy import Ledger, epsilon_of, require_accounting
from ..recipes import LOCAL, Recipe
from ..rounds import LEDGER, Row, read_rows
from ..sites import SiteManifest, patients_of
from .run_folder import RunFolder, Say
from .task import private_steps

#: Below so many patients a site is warned.
FEW_PATIENTS = 200
#: What a few patients cost, as measured; see docs/differential-privacy.md.
_LOSS = "phantoms, 16 patients: 23.0 dB at epsilon 10, 24.7 dB without noise, 22.9 dB untrained"


class SitePrivacy(NamedTuple):
    """Privacy of the patients of a site: their number, private steps, epsilon."""

    patients: int
    steps: int
    epsilon: float


def say_privacy(recipe: Recipe, manifests: Sequence[SiteManifest], say: Say) -> None:
    """Say what the private steps of a run will cost at every site, and what they do not protect.

    Raises
    ------
    ConfigError
        If a site has too few patients.
    DataError
        If the package of the accountant is not installed, or a file cannot be used.
    """
    if recipe.privacy.noise() is None:
        return
    require_accounting()
    rounds, delta = recipe.federation.rounds, recipe.privacy.delta
    planned = {}
    for manifest in (manifest for manifest in manifests if manifest.trains):
        found = patients_of(manifest, manifest.dataset("train"))
        steps = private_steps(recipe, manifest, len(found), rounds * recipe.training.steps_per_round)
        planned[manifest.name] = SitePrivacy(len(found), steps.steps, epsilon_of([steps], delta))
        if found.unnamed > 1:
            what = f"{found.unnamed} training files name no patient"
            say(f"note: {manifest.name}: {what}; each counts as one: name the persons in [data.persons]")
    text = privacy_text(planned, delta)
    say(f"differential privacy of patients, after at most {rounds} rounds: {text}; secret noise: no two runs are equal")
    if few := [f"{name} {site.patients}" for name, site in planned.items() if site.patients < FEW_PATIENTS]:
        say(f"warning: few patients ({', '.join(few)}): below about {FEW_PATIENTS} noise costs much ({_LOSS})")
    if unprotected := unprotected_arms(recipe):
        say(f"note: trained without noise, so without epsilon: {' and '.join(unprotected)}")


def unprotected_arms(recipe: Recipe) -> list[str]:
    """Networks of a private run that stay at their site and train without noise."""
    arms = ["the networks of the personal stage"] if recipe.personal.steps else []
    return arms + (["the local arm"] if LOCAL in recipe.evaluation.arms else [])


def privacy_of(run: RunFolder) -> dict[str, SitePrivacy]:
    """What every site of a run has spent, by its own records; empty without differential privacy.

    Rounds that were repeated or interrupted count.

    Raises
    ------
    DataError
        If the record of a site that has trained is missing or damaged.
    """
    noise, spent = run.recipe.privacy.noise(), {}
    if noise is None:
        return {}
    trained = stated_epsilon(read_rows(run.path))
    for manifest in run.participants:
        ledger = Ledger(run.site_folder(manifest.name) / "kept" / LEDGER)
        if manifest.name in trained:
            ledger.require()
        made = ledger.spent()
        if made:
            patients = round(noise.patients_per_step / made[-1].probability)
            steps, epsilon = sum(part.steps for part in made), epsilon_of(made, run.recipe.privacy.delta)
            spent[manifest.name] = SitePrivacy(patients, steps, epsilon)
    return spent


def stated_epsilon(rows: Iterable[Row]) -> dict[str, float]:
    """Epsilon that each site has stated last, from the rows of the round log."""
    return {row["site"]: row["epsilon"] for row in rows if row.get("epsilon") is not None}


def report_of_privacy(run: RunFolder) -> dict[str, Any]:
    """``privacy`` of :func:`recon.write_report`; empty without differential privacy."""
    spent = privacy_of(run)
    if not spent:
        return {}
    unprotected = unprotected_arms(run.recipe)
    note = f"Trained without noise, so without epsilon: {' and '.join(unprotected)}. " if unprotected else ""
    note += "Patients of validation and test data are not covered."
    return {
        "delta": run.recipe.privacy.delta,
        "note": note,
        "sites": {name: site._asdict() for name, site in spent.items()},
    }


def privacy_text(sites: Mapping[str, SitePrivacy], delta: float) -> str:
    """Epsilon of every site on one line."""
    each = ", ".join(f"{name} {site.epsilon:.2f} ({site.patients} patients)" for name, site in sites.items())
    return f"epsilon {each} at delta {delta:g}"
