"""Differential privacy of a run: what is said before the training, and epsilon of every site after it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from recon import epsilon_text

from ..methods import CHECKPOINTS
from ..privacy import Ledger, PrivateSteps, epsilon_of, require_accounting
from ..recipes import LOCAL, Recipe
from ..rounds import LEDGER, Row, read_rows
from ..serialization import saved_rounds
from ..sites import Patients, SiteManifest, patients_of
from .run_folder import RunFolder, Say
from .task import private_steps

#: Below so many patients a site is warned.
FEW_PATIENTS = 200
#: What a few patients cost, as measured; see docs/differential-privacy.md.
_LOSS = "real anatomy, 50 patients: 24.4 dB at epsilon 10, 26.3 dB without noise, 23.4 dB untrained"


class SitePrivacy(NamedTuple):
    """Privacy of the patients of a site.

    ``steps`` are the private steps that it has made, and ``epsilon`` is what they have spent. ``planned`` is epsilon
    after all rounds of the recipe. It is the guarantee, since results may decide when a training ends.
    """

    patients: int
    steps: int
    epsilon: float
    planned: float


def say_privacy(run: RunFolder, say: Say) -> None:
    """Say what the private steps of a run will cost at every site, and what they do not protect.

    The folder may hold a part of the run, whose steps count, or nothing yet.

    Raises
    ------
    ConfigError
        If a site has too few patients.
    DataError
        If the package of the accountant is not installed, or a file cannot be used.
    """
    recipe = run.recipe
    if recipe.privacy.noise() is None:
        return
    require_accounting()
    done = max(saved_rounds(run.path / CHECKPOINTS), default=0)
    found = {manifest.name: patients_of(manifest, manifest.dataset("train")) for manifest in run.participants}
    planned = {m.name: _site_privacy(run, m, len(found[m.name]), done) for m in run.participants}
    rounds, text = recipe.federation.rounds, privacy_text(planned, recipe.privacy.delta)
    say(f"differential privacy of patients, after at most {rounds} rounds: {text}; secret noise: no two runs are equal")
    for line in privacy_notes(recipe, found):
        say(line)


def privacy_notes(recipe: Recipe, patients: Mapping[str, Patients], *, deployed: bool = False) -> list[str]:
    """Lines on the limits of differential privacy, before a training.

    They tell of files that name nobody, of few patients, of networks without noise, of a base and of shared noise.

    Parameters
    ----------
    patients
        The training patients by site.
    deployed
        Whether the run is that of deployed sites.
    """
    lines = [f"note: {name}: {text}" for name, found in patients.items() if (text := unnamed_note(found))]
    if few := [f"{name} {len(found)}" for name, found in patients.items() if len(found) < FEW_PATIENTS]:
        lines.append(f"warning: few patients ({', '.join(few)}): below about {FEW_PATIENTS} noise costs much ({_LOSS})")
    if unprotected := unprotected_arms(recipe, deployed=deployed):
        lines.append(f"note: trained without noise, so without epsilon: {' and '.join(unprotected)}")
    if text := base_note(recipe):
        lines.append(f"note: {text}")
    if text := sharing_note(recipe):
        lines.append(f"note: {text}: {_known_to_a_site(recipe, patients)}")
    return lines


def unnamed_note(found: Patients) -> str:
    """A sentence on training files that name no patient; an empty text if there are none, or a single file."""
    if not found.unnamed or len(found) == 1:
        return ""
    files = f"{found.unnamed} training file{'s' if found.unnamed > 1 else ''} without a patient"
    return f"{files}, each counted as a patient of its own; name the persons in [data.persons]"


def unprotected_arms(recipe: Recipe, *, deployed: bool = False) -> list[str]:
    """Networks of a private run that stay at their site and train without noise; deployed sites have no local arm."""
    arms = ["the networks of the personal stage"] if recipe.personal.steps else []
    return arms + (["the local arm"] if LOCAL in recipe.evaluation.arms and not deployed else [])


def base_note(recipe: Recipe) -> str:
    """A sentence on the trained parameters that a run begins with; an empty text if it begins with random ones."""
    head = None if recipe.task is None else recipe.task.head_weights
    begins = {"network.base": recipe.network.base, "task.head_weights": head}
    keys = [key for key, found in begins.items() if found is not None]
    if not keys:
        return ""
    return (
        f"epsilon covers the steps of this run alone, not its base ({', '.join(keys)}): of a base that was trained on "
        "the same patients the epsilon adds up, and if it was trained without noise there is none"
    )


def sharing_note(recipe: Recipe) -> str:
    """A sentence on noise that the sites share; an empty text if each site adds all of it."""
    if (shared_by := recipe.privacy.shared_by) == 1:
        return ""
    return (
        "each site adds a part of the noise (privacy.shared_noise), and sums over "
        f"{shared_by} sites or more have all of it: epsilon holds for whoever sees the sums alone. Another site also "
        "knows its own part, and so does the server if that site tells it"
    )


def _known_to_a_site(recipe: Recipe, patients: Mapping[str, Patients]) -> str:
    """Epsilon of all rounds for another site, which knows its own part of the noise."""
    noise, rounds = recipe.privacy.noise(), recipe.federation.rounds
    assert noise is not None
    each = []
    for name, found in patients.items():
        steps = PrivateSteps(
            rounds, noise.probability(len(found)), noise.noise_multiplier, shared_by=recipe.privacy.shared_by
        )
        each.append(f"{name} {epsilon_text(epsilon_of([steps.without(1)], recipe.privacy.delta))}")
    return f"for them epsilon is {', '.join(each)}"


def privacy_of(run: RunFolder) -> dict[str, SitePrivacy]:
    """What every site of a run has spent, by its own records; empty without differential privacy.

    Rounds that were repeated or interrupted count.

    Raises
    ------
    DataError
        If the record of a site is damaged, or lacks a round that the site has trained.
    """
    noise, spent = run.recipe.privacy.noise(), {}
    if noise is None:
        return {}
    trained = [(row["site"], row["round"]) for row in read_rows(run.path) if row.get("epsilon") is not None]
    for manifest in run.participants:
        ledger = _ledger(run, manifest)
        ledger.require([round_ for site, round_ in trained if site == manifest.name])
        if made := ledger.spent():
            # Records before the field `patients` tell it by the probability alone.
            patients = made[-1].patients or round(noise.patients_per_step / made[-1].probability)
            spent[manifest.name] = _site_privacy(run, manifest, patients, _rounds_done(run, manifest))
    return spent


def _site_privacy(run: RunFolder, manifest: SiteManifest, patients: int, done: int) -> SitePrivacy:
    """Privacy of a site by its record, and after the rounds that are left when ``done`` are done."""
    recipe, made = run.recipe, _ledger(run, manifest).spent()
    left = max(0, recipe.federation.rounds - done) * recipe.training.steps_per_round
    rest, delta = private_steps(recipe, manifest, patients, left), recipe.privacy.delta
    steps = sum(part.steps for part in made)
    return SitePrivacy(patients, steps, epsilon_of(made, delta), epsilon_of([*made, rest], delta))


def _ledger(run: RunFolder, manifest: SiteManifest) -> Ledger:
    return Ledger(run.spec(manifest).folder / LEDGER)


def _rounds_done(run: RunFolder, manifest: SiteManifest) -> int:
    """Rounds that a run has made; of an exported one, which has one checkpoint alone, by the site's kept state."""
    folder = run.spec(manifest).folder if run.is_exported else run.path / CHECKPOINTS
    return max(saved_rounds(folder), default=0)


def stated_epsilon(rows: Iterable[Row]) -> dict[str, float]:
    """Epsilon that each site has stated last, from the rows of the round log."""
    return {row["site"]: row["epsilon"] for row in rows if row.get("epsilon") is not None}


def report_of_privacy(run: RunFolder) -> dict[str, Any]:
    """``privacy`` of :func:`recon.write_report`; empty without differential privacy."""
    spent = privacy_of(run)
    if not spent:
        return {}
    notes = []
    if unprotected := unprotected_arms(run.recipe, deployed=run.is_exported):
        what = "Trained without noise, so without epsilon, and this report holds scores of these networks"
        notes.append(f"{what}: {' and '.join(unprotected)}.")
    notes += [f"{text[0].upper()}{text[1:]}." for text in (base_note(run.recipe), sharing_note(run.recipe)) if text]
    notes.append("Patients of validation and test data are not covered.")
    return {
        "delta": run.recipe.privacy.delta,
        "note": " ".join(notes),
        "sites": {name: site._asdict() for name, site in spent.items()},
    }


def privacy_text(sites: Mapping[str, SitePrivacy], delta: float) -> str:
    """Epsilon of every site after all rounds, on one line, and what is spent so far if that is less."""
    each = ", ".join(f"{name} {epsilon_text(site.planned)} ({_details(site)})" for name, site in sites.items())
    return f"epsilon {each} at delta {delta:g}"


def _details(site: SitePrivacy) -> str:
    patients = f"{site.patients} patient{'s' * (site.patients != 1)}"
    so_far = 0 < site.epsilon < site.planned
    return f"{patients}; spent so far {epsilon_text(site.epsilon)}" if so_far else patients
