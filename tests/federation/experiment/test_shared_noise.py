"""Sites that share the noise: what a site adds, what the sum holds, what is said and recorded."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from federation import ConfigError, Recipe, RunFolder, load_federation, load_recipe
from federation.cli import main
from federation.experiment import initial_state
from federation.experiment.private_run import privacy_notes, privacy_of, sharing_note
from federation.experiment.task import site_spec
from federation.experiment.train import algorithm_of
from federation.privacy import SUM, PrivateSteps, epsilon_of, vector_of
from federation.recipes import secure_sum_of
from federation.rounds import Site, read_rows
from federation.serialization import MessageError, SiteUpdate, layout
from federation.sites import Patients
from recon import PatientLearner, epsilon_text

from ..fake_sites import SMALL, write_site
from ..sharing import SHARED, without

NAMES = ("east", "north", "west")
NETWORK = [text for text in SMALL if "=" in text and "steps_per_round" not in text]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for name in NAMES:
        write_site(folder, name)
    return folder


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("fedavg", [*NETWORK, *SHARED, "network.channels=48", "evaluation.arms=[]", *overrides])


def site_of(sites: Path, recipe: Recipe, name: str, folder: Path) -> Site:
    secure = secure_sum_of(recipe, dict.fromkeys(NAMES, 4))
    manifest = next(m for m in load_federation(sites) if m.name == name)
    return replace(site_spec(manifest, recipe, folder / name, sites / "maps"), secure=secure).build()


def updates_of(sites: Path, recipe: Recipe, folder: Path, scale: float = 1.0) -> dict[str, SiteUpdate]:
    """Updates of the first round, in which the broadcast parameters are ``scale`` times the initial ones."""
    algorithm, (shared, aux) = algorithm_of(recipe), initial_state(recipe)
    state = algorithm.start({name: scale * tensor for name, tensor in shared.items()}, aux)
    return {name: site_of(sites, recipe, name, folder).train_round(algorithm.broadcast(state, name)) for name in NAMES}


def mean_of(recipe: Recipe, updates: dict[str, SiteUpdate], names: tuple[str, ...]) -> torch.Tensor:
    """What a server gets from the sum of some sites, as one vector."""
    secure, shared = secure_sum_of(recipe, dict.fromkeys(NAMES, 4)), initial_state(recipe)[0]
    assert secure is not None
    total = sum(vector_of(updates[name].shared[SUM]) for name in names)
    change, _ = secure.mean(total, names, layout(shared), {})  # type: ignore[arg-type]
    return torch.cat([change[name].reshape(-1) for name in sorted(change)])


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_sums_have_all_of_the_noise_and_one_site_a_part(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Also where the parameters are so large that float32 would round the noise away."""
    monkeypatch.setattr(PatientLearner, "_drawn", lambda self: [])  # noise alone
    recipe = recipe_of("privacy.clip=1e-3", "training.learning_rate=0.02")
    updates = updates_of(sites, recipe, tmp_path, scale)
    full = 0.02 * 2.0 * 1e-3  # rate, noise multiplier, clip; one patient in a step
    for names, part in ((NAMES[:1], 1 / 2), (NAMES[:2], 1.0), (NAMES[1:], 1.0), (NAMES, 3 / 2)):
        noise = len(names) * mean_of(recipe, updates, names)
        bound = 5 / math.sqrt(2 * len(noise))
        assert bound < 0.1
        assert float(noise.std()) == pytest.approx(full * math.sqrt(part), rel=bound)
    if scale > 1:
        change = torch.cat([t.reshape(-1) for t in initial_state(recipe)[0].values()]) * scale
        assert float((torch.nextafter(change, change + 1) - change).max()) > 2 * full


def test_the_change_is_the_gradient_times_the_rate(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is that of plain gradient descent at all sites, up to the step of the integers."""
    monkeypatch.setattr("recon.training.private_training.secret_normal", torch.zeros)
    monkeypatch.setattr(PatientLearner, "_drawn", lambda self: list(self.patients))
    shared, own = recipe_of(), recipe_of("privacy.shared_noise=false")
    updates = {number: updates_of(sites, recipe, tmp_path / str(number)) for number, recipe in enumerate((shared, own))}
    one, other = (mean_of(shared, found, NAMES) for found in updates.values())
    assert float(one.abs().max()) > 1e-4
    # One of them is rounded to float32 before; on some processors to the same.
    assert float((one - other).abs().max()) < 1e-7
    update = updates[0]["east"]
    assert (update.loss, update.score_after, dict(update.aux)) == (None, None, {})


def test_nothing_but_the_sum_follows_the_gradient_of_a_site(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other patients and other noise, a site sends other integers and seconds, and stores the same files."""
    recipe, sent, stored = recipe_of(), [], []
    for number in range(2):
        monkeypatch.setattr(PatientLearner, "_drawn", lambda self, number=number: list(self.patients)[:number])
        folder = tmp_path / str(number)
        sent.append(vars(updates_of(sites, recipe, folder)["east"]))
        stored.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    one, other = ({key: value for key, value in fields.items() if key != "seconds"} for fields in sent)
    integers = [fields.pop("shared") for fields in (one, other)]
    assert integers[0].keys() == {SUM} and not torch.equal(integers[0][SUM], integers[1][SUM])
    assert one == other and one["epsilon"] > 0
    assert stored[0] == stored[1] and len(stored[0]) >= 6


def test_epsilon_is_that_of_all_of_the_noise(sites: Path, tmp_path: Path) -> None:
    recipe = recipe_of()
    assert recipe.privacy.shared_by == 2
    updates = updates_of(sites, recipe, tmp_path)
    assert {update.epsilon for update in updates.values()} == {epsilon_of([PrivateSteps(1, 0.5, 2.0)], 1e-5)}
    (entry,) = json.loads((tmp_path / "east" / "privacy.json").read_text())
    assert entry == {"round": 0, "steps": 1, "probability": 0.5, "noise_multiplier": 2.0, "shared_by": 2, "patients": 2}


def test_what_another_site_knows_is_said(sites: Path) -> None:
    recipe = recipe_of("federation.rounds=7", "privacy.threshold=3")
    lines = privacy_notes(recipe, {"east": Patients({"a": [0], "b": [1]}, 0)})
    known = epsilon_of([PrivateSteps(7, 0.5, 2.0 * math.sqrt(2 / 3))], 1e-5)
    assert lines[-1].startswith(
        "note: each site adds a part of the noise (privacy.shared_noise), and sums over 3 sites"
    )
    assert lines[-1].endswith(
        f"so does the server if that site tells it: for them epsilon is east {epsilon_text(known)}"
    )
    assert known > epsilon_of([PrivateSteps(7, 0.5, 2.0)], 1e-5)
    assert sharing_note(recipe_of("privacy.shared_noise=false")) == ""


def test_a_site_answers_in_a_secure_sum_alone(sites: Path, tmp_path: Path) -> None:
    recipe = recipe_of()
    site = site_of(sites, recipe, "east", tmp_path)
    algorithm = algorithm_of(recipe)
    broadcast = algorithm.broadcast(algorithm.start(*initial_state(recipe)), "east")
    alone = replace(site.spec, secure=None).build()
    with pytest.raises(MessageError, match=r"^site east: adds a part of the noise only, expected a secure sum$"):
        alone.handle(broadcast.to_bytes())
    assert not list(tmp_path.rglob("privacy.json"))


def test_a_site_with_a_parameter_that_stays_and_trains_is_not_built(sites: Path, tmp_path: Path) -> None:
    options = [*NETWORK, *without("scope.freeze")]
    with pytest.raises(ConfigError, match=r"consistency\.0\.log_step stays at the site and trains"):
        site_of(sites, load_recipe("fedavg", options), "east", tmp_path)


@pytest.mark.slow
def test_a_run_says_and_reports_what_it_assumes(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, chosen = tmp_path / "run", [*NETWORK, *SHARED, "federation.rounds=2", "evaluation.arms=[]"]
    options = [part for text in chosen for part in ("--set", text)]
    assert main(["train", "fedavg", "--sites", str(sites), "--out", str(run), "--jobs", "1", *options]) == 0
    note = "ach site adds a part of the noise (privacy.shared_noise), and sums over 2 sites or more"
    assert f"note: e{note}" in capsys.readouterr().out
    rows = [row for row in read_rows(run) if row["site"] == "east"]
    one, two = (epsilon_of([PrivateSteps(steps, 0.5, 2.0)], 1e-5) for steps in (1, 2))
    assert [row["epsilon"] for row in rows] == [one, two, None]
    assert privacy_of(RunFolder.open(run))["east"] == (2, 2, two, two)
    assert main(["evaluate", str(run)]) == 0
    assert f"E{note}" in json.loads((run / "report.json").read_text())["privacy"]["note"]
    assert main(["weights", "export", str(run), "--out", str(tmp_path / "weights")]) == 0
    assert f"- e{note}" in (tmp_path / "weights" / "MODEL.md").read_text()
