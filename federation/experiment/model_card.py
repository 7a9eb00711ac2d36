"""The model card beside exported weights: data by counts, license, recipe, regime, scores, limits."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from recon import fedrecon_version

from ..config import read_json
from ..rounds import read_rows
from ..sites import SiteManifest, split_counts
from .private_run import SitePrivacy, base_note, privacy_of, privacy_text, sharing_note
from .run_folder import RunFolder

CARD = "MODEL.md"
_SCORES = (("psnr", "{:.2f}"), ("ssim", "{:.3f}"), ("residual", "{:.3f}"))


def model_card(run: RunFolder, file: str, limits: Mapping[str, float], *, site: str | None, kept: Sequence[str]) -> str:
    """Text of the card.

    Parameters
    ----------
    file
        Name of the file of weights.
    limits
        Largest ``matrix`` and ``acceleration`` of the training scans; empty: unknown.
    site
        The site whose network was exported; None: the shared one.
    kept
        Parameters that have their initial values, as each site keeps its own.
    """
    parts = [
        f"# {file}: {run.recipe.name}",
        _what(run, file, site, kept),
        "## Data\n\n" + _data(run),
        "## License\n\n" + _license(run),
        "## Regime\n\n" + _regime(run, site),
        "## Scores\n\n" + _scores(run),
        "## Limits\n\n" + _limits(limits),
        "## Recipe\n\n" + _recipe(run),
    ]
    return "\n\n".join(parts) + "\n"


def _what(run: RunFolder, file: str, site: str | None, kept: Sequence[str]) -> str:
    whose = f"the network that the site {site} uses" if site else "the shared network of all sites"
    text = (
        f"Weights of {whose}, trained by `{run.recipe.name}`"
        f"{f' ({run.recipe.paper})' if run.recipe.paper else ''}, written by fedrecon {fedrecon_version()} on "
        f'{date.today().isoformat()}. `recon.load_weights("{file}")` builds the network, '
        f"`fedrecon reconstruct --weights {file} SCAN --out IMAGE` uses it, `--start-from {file}` trains on."
    )
    if kept:
        text += f"\n\n{len(kept)} parameters that every site keeps have their initial values, as at an unseen site."
    return text


def _data(run: RunFolder) -> str:
    rows = [
        "| site | modality | scanner | origin | training | validation | test |",
        "|---|---|---|---|---|---|---|",
    ]
    for manifest in run.manifests:
        counts = split_counts(manifest)
        role = "" if manifest.trains else " (did not train)"
        cells = [f"{manifest.name}{role}", manifest.kind.title, _scanner(manifest), _origin(manifest)]
        rows.append(_row([*cells, *(str(counts[split]) for split in ("train", "validation", "test"))]))
    return "Counts of persons, as the manifests and files name them.\n\n" + "\n".join(rows)


def _scanner(manifest: SiteManifest) -> str:
    facts = manifest.acquisition
    field = None if facts.field_T is None else f"{facts.field_T:g} T"
    return ", ".join(part for part in (facts.vendor, facts.model, field, facts.anatomy, facts.contrast) if part)


def _origin(manifest: SiteManifest) -> str:
    return manifest.acquisition.origin or ("simulated" if manifest.synthetic else "measured")


def _license(run: RunFolder) -> str:
    stated = {manifest.name: manifest.acquisition.license for manifest in run.participants}
    lines = [f"- {name}: {license or 'not stated'}" for name, license in stated.items()]
    advice = (
        "The licenses of the training data, as the manifests state them (`acquisition.license`). Share-alike data make "
        "share-alike weights. Ask each site before these weights are passed on."
    )
    return advice + "\n\n" + "\n".join(lines)


def _regime(run: RunFolder, site: str | None) -> str:
    training, federation, state = run.recipe.training, run.recipe.federation, run.selected()
    rows = [row for row in read_rows(run.path) if row["n_samples"] is not None]
    rounds = 1 + max((row["round"] for row in rows), default=-1)
    lines = [
        f"- {len(run.participants)} sites, {rounds} of at most {federation.rounds} rounds of "
        f"{training.steps_per_round} steps at each site, batches of {training.batch_size}",
        f"- round {state.round} was chosen by its validation score; seed {federation.seed}",
    ]
    if run.recipe.network.base is not None:
        lines.append(f"- started from `{_base(run)}`")
    if run.recipe.personal.steps:
        used = "included" if site else "not included: name a site to export it"
        lines.append(f"- {run.recipe.personal.steps} steps at each site after the rounds (personal stage), {used}")
    if spent := privacy_of(run):
        lines.append(f"- {_privacy(run, spent, site)}")
        lines += [f"- {text}" for text in (base_note(run.recipe), sharing_note(run.recipe)) if text]
    return "\n".join(lines)


def _privacy(run: RunFolder, spent: Mapping[str, SitePrivacy], site: str | None) -> str:
    if site is not None and run.recipe.personal.steps:
        return "the rounds had differential privacy of patients, the personal stage had none: no epsilon holds"
    return f"differential privacy of training patients: {privacy_text(spent, run.recipe.privacy.delta)}"


def _scores(run: RunFolder) -> str:
    path = run.path / "report.json"
    if not path.is_file():
        return f"Not evaluated: run `fedrecon evaluate {run.path.name}` and export again."
    results = read_json(path, "run `fedrecon evaluate` again")
    arms: dict[str, Any] = results["arms"]
    lines = [_row(["site", *arms]), _row(["---"] * (1 + len(arms)))]
    lines += [_row([name, *(_cell(entry["sites"][name]) for entry in arms.values())]) for name in results["sites"]]
    card = results.get("metric_card", {})
    how = "; ".join(card[key] for key in ("measurement", "selection", "tuning", "seeds") if card.get(key))
    head = "PSNR in dB and SSIM on test data, by `fedrecon evaluate`; without a reference the held-out residual."
    return f"{head}\n\n" + "\n".join(lines) + f"\n\n{how}."


def _cell(scores: Mapping[str, Any]) -> str:
    found = [form.format(scores[name]) for name, form in _SCORES if scores.get(name) is not None]
    return " ".join(found) or "none"


def _limits(limits: Mapping[str, float]) -> str:
    known = ", ".join(f"{key} at most {value:g}" for key, value in sorted(limits.items())) or "unknown"
    return "\n".join((
        f"- Training scans: {known}. `fedrecon reconstruct` warns beyond.",
        "- Only what the table of data lists was seen: other anatomy, contrast, coils and disease were not.",
        "- Research only. Not a medical device, and not for diagnosis: a network can remove lesions and draw structure "
        "that is not there. Compare with TV and with the held-out residual that `fedrecon reconstruct` prints.",
        "- Weights can give away something about the persons they were trained on.",
    ))  # fmt: skip


def _recipe(run: RunFolder) -> str:
    text = run.recipe.to_toml().strip()
    if (base := run.recipe.network.base) is not None:
        text = text.replace(base, _base(run))
    return f"Digest `{run.recipe.digest()}`.\n\n```toml\n{text}\n```"


def _base(run: RunFolder) -> str:
    """What the run started from, without the folders of its user."""
    return str(run.recipe.network.base).rsplit("/", 1)[-1]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
