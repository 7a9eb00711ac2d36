"""Every part has the properties of its kind; a part of one's own, in a file outside the package, is used like them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from federation import REGISTRIES, check_part, load_recipe, make_ct_demo_sites, make_demo_sites
from federation.cli import main
from federation.methods import SERVER_RULES, TRANSFORMS, WEIGHTINGS
from federation.methods.server_rule import INVARIANTS, RoundInput, ServerRule
from federation.methods.transform import Transform
from federation.methods.weighting import Weighting
from federation.sites import CT_DEMO_SITES, DEMO_SITES
from physics import OPERATORS, Registry
from recon import DATA_CONSISTENCY, MODALITIES, OBJECTIVES, PENALTIES, REGULARIZERS, Penalty, Regularizer

OPTIONS: dict[str, dict[str, Any]] = {
    "clip": {"max_norm": 3.0},
    "topk": {"fraction": 0.1},
    "low_rank": {"rank": 2},
    "moments": {"features": "regularizers.*.hidden.0"},
}
READERS = [modality.readers for modality in MODALITIES.values()]
PARTS = [(registry, name) for registry in REGISTRIES if registry not in READERS for name in registry]


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=[f"{r.kind}-{n}" for r, n in PARTS])
def test_every_part_has_the_properties_of_its_kind(registry: Registry[Any], name: str) -> None:
    check_part(registry, name, **OPTIONS.get(name, {}))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scan of each modality that its first reader opens."""
    folder = tmp_path_factory.mktemp("scans")
    counts = {"train": 1, "validation": 1, "test": 1, "slices": 2}
    make_demo_sites(folder / "mri", size=32, sites=DEMO_SITES[:2], **counts)
    make_ct_demo_sites(folder / "ct", size=48, sites=CT_DEMO_SITES[:1], **counts)
    return {name: next((folder / name / "data").rglob("*.h5")) for name in ("mri", "ct")}


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_first_reader_of_every_modality_has_the_properties_of_a_reader(
    scans: dict[str, Path], modality: str
) -> None:
    readers = MODALITIES[modality].readers
    check_part(readers, next(iter(readers)), example=scans[modality])
    with pytest.raises(ValueError, match="needs a file that it can open"):
        check_part(readers, next(iter(readers)))


# One file with a part of every kind. Each is used once, by the name "mine".
PLUGIN = '''"""Parts of one's own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from federation import SERVER_RULES, TRANSFORMS, WEIGHTINGS, ServerRule, Transform, Weighting
from physics import OPERATORS, CartesianMRI
from recon import (
    DATA_CONSISTENCY, MODALITIES, OBJECTIVES, PENALTIES, REGULARIZERS, ClassicalMethod, Penalty, Regularizer,
    SiteDataConsistency, apply, open_volume,
)


@OPERATORS.add("mine")
class MyOperator(CartesianMRI):
    """Cartesian MRI under another name."""


@REGULARIZERS.add("mine")
class MyRegularizer(Regularizer):
    def __init__(self, channels: int = 4, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.one, self.two = nn.Conv2d(2, channels, 3, padding=1), nn.Conv2d(channels, 2, 3, padding=1)

    def refine(self, channels, condition):
        return channels + self.gain * self.two(torch.tanh(self.one(channels)))


@DATA_CONSISTENCY.add("mine")
class MyConsistency(SiteDataConsistency):
    def __init__(self, step: float = 0.5) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, x, y, A, backprojection=None):
        return x - self.step * A.normalized_adjoint(A(x) - y)


@OBJECTIVES.add("mine")
@dataclass(frozen=True)
class MyTask:
    power: float = 2.0

    def __call__(self, network, batch, generator):
        image = apply(network, batch)
        return (batch.magnitude(image) - batch.target()).abs().pow(self.power).mean(), image


@PENALTIES.add("my_penalty")
@dataclass(frozen=True)
class MyPenalty(Penalty):
    weight: float

    def __call__(self, network, batch, image):
        return self.weight * image.abs().square().mean()


@SERVER_RULES.add("mine")
@dataclass(frozen=True)
class MyRule(ServerRule):
    length: float = 1.0
    invariants: ClassVar[frozenset[str]] = frozenset({"order", "equal_sites", "memory_round_trip"})

    def _combine(self, round_):
        return round_.step(dict.fromkeys(round_.weights, 1.0), self.length), {}


@WEIGHTINGS.add("mine")
@dataclass(frozen=True)
class MyWeights(Weighting):
    def _weigh(self, contributions, memory):
        return {c.site: float(c.n_steps) for c in contributions}, {}


@TRANSFORMS.add("mine")
@dataclass(frozen=True)
class MyTransform(Transform):
    factor: float = 1.0
    invariants: ClassVar[frozenset[str]] = frozenset({"zero", "scale", "name_order"})

    def encode(self, delta, generator, context):
        return {name: self.factor * tensor for name, tensor in delta.items()}


@MODALITIES["mri"].methods.add("mine")
class MyMethod(ClassicalMethod):
    candidates = (0.5, 1.0)

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, y, A):
        return self.factor * A.start(y)


@MODALITIES["mri"].readers.add("mine")
def open_mine(path, *, gain: float = 1.0):
    assert gain == 2.0 or gain == 1.0
    return open_volume(path)
'''

RECIPE = """
extends = "fedavg"
name = "my_method"
plugins = ["parts/mine.py"]

[network]
cascades = 2
channels = 3
regularizer = "mine"
regularizer_options = { gain = 0.5 }
consistency = "mine"
consistency_options = { step = 0.25 }

[training]
steps_per_round = 2

[objective]
task = "mine"
my_penalty = 1e-3
options = { mine = { power = 1.5 } }

[federation]
rounds = 2
weights = "mine"
server_rule = "mine"
server_options = { length = 0.5 }

[transform]
chain = ["mine"]
options = { mine = { factor = 0.75 } }

[evaluation]
arms = ["zero_filled", "mine", "fbp"]
"""


def test_a_part_of_every_kind_in_a_file_outside_the_package(
    tmp_path: Path, fresh_registries: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.py").write_text(PLUGIN)
    (tmp_path / "mine.toml").write_text(RECIPE)
    sites, run = tmp_path / "sites", tmp_path / "run"
    make_demo_sites(sites, size=32, train=1, validation=1, test=1, slices=2, sites=DEMO_SITES[:2])
    for path in sites.glob("*.toml"):
        text = path.read_text().replace('format = "fastmri"', 'format = "mine"\noperator = "mine"\ngain = 2.0')
        path.write_text(text.replace('modality = "mri"', 'modality = "mri"\nplugins = ["../parts/mine.py"]'))
    monkeypatch.chdir(tmp_path / "sites")  # the plugin lies beside the recipe, wherever the command runs
    command = ["train", str(tmp_path / "mine.toml"), "--sites", str(sites), "--out", str(run), "--jobs", "2"]
    assert main(command) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert {row["round"] for row in rows if row["n_samples"]} == {0, 1}
    assert main(["evaluate", str(run), "--jobs", "1"]) == 0, capsys.readouterr().err
    report = json.loads((run / "report.json").read_text())
    assert set(report["arms"]) == {"zero_filled", "mine", "my_method"}
    example = next((sites / "data").rglob("*.h5"))
    mri = MODALITIES["mri"]
    kinds = [OPERATORS, REGULARIZERS, DATA_CONSISTENCY, OBJECTIVES, SERVER_RULES, WEIGHTINGS, TRANSFORMS]
    for registry in (*kinds, mri.methods):
        check_part(registry, "mine")
    check_part(PENALTIES, "my_penalty")
    check_part(mri.readers, "mine", example=example, gain=2.0)


class Constant(Regularizer):
    """Adds a number: no part of the image, and no parameter, matters."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(()))

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        return channels + 1


class First(ServerRule):
    """The first site to arrive; declares that the order does not matter."""

    invariants = frozenset({"order"})

    def combine(self, shared: Any, memory: Any, contributions: Any, weights: Any, *, n_sites: int) -> Any:
        return contributions[0].shared, {}

    def _combine(self, round_: RoundInput) -> Any: ...


class Zero(Weighting):
    invariants = INVARIANTS - INVARIANTS

    def _weigh(self, contributions: Any, memory: Any) -> Any:
        return {c.site: 0.0 for c in contributions}, {}


class Noisy(Transform):
    assert "not in the tables, as not every site has it: fbp\n" in capsys.readouterr().out
    invariants = frozenset({"lossless"})

    def encode(self, delta: Any, generator: torch.Generator, context: Any) -> Any:
        return {name: t + torch.randn(t.shape, generator=generator) for name, t in delta.items()}


class Nothing(Penalty):
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, network: nn.Module, batch: Any, image: Tensor) -> Tensor:
        return 0 * image.abs().sum()


class Biased(nn.Module):
    def forward(self, y: Tensor, A: Any) -> Tensor:
        return A.start(y) + 1


def unsteady(network: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    image = network(batch.measurement, batch.operator)
    return image.abs().mean() * torch.rand(()), image


@pytest.mark.parametrize(
    ("registry", "part", "message"),
    [
        (REGULARIZERS, Constant, "uses unused"),
        (SERVER_RULES, First, "invariant 'order'"),
        (WEIGHTINGS, Zero, "positive weights"),
        (TRANSFORMS, Noisy, "invariant 'lossless'"),
        (PENALTIES, Nothing, "changes the gradient"),
        (OBJECTIVES, lambda: unsteady, "draws from its generator alone"),
        (MODALITIES["ct"].methods, Biased, "zeros for an empty slice"),
        (DATA_CONSISTENCY, lambda: nn.Identity(), "takes the operators of a modality"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_part_that_breaks_a_property_is_named(
    fresh_registries: None, registry: Registry[Any], part: Callable[[], Any], message: str
) -> None:
    registry.add("broken")(part)
    with pytest.raises(AssertionError, match=f"{registry.kind} 'broken': expected a part that .*{message}"):
        check_part(registry, "broken")


def test_an_option_that_a_part_lacks_is_named_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "fedavg"\nname = "mine"\n[network]\nregularizer_options = { cutof = 1 }\n')
    with pytest.raises(
        ValueError, match=r"mine.toml: network.regularizer_options: found 'cutof', expected one of channels"
    ):
        load_recipe(path)
