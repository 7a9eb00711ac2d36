"""Every part has the properties of its kind; a part of one's own, in a file outside the package, is used like them."""

import json
import re
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
from federation.sites import CT_DEMO_SITES, DEMO_SITES, check_sites
from physics import OPERATORS, CartesianMRI, Registry
from recon import (
    DATA_CONSISTENCY,
    MODALITIES,
    OBJECTIVES,
    PENALTIES,
    REGULARIZERS,
    ConvRegularizer,
    KSpaceVolume,
    Penalty,
    Regularizer,
    SiteDataConsistency,
    open_volume,
)

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
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sites of MRI and of CT, each in a folder."""
    folder = tmp_path_factory.mktemp("hospitals")
    counts = {"train": 1, "validation": 1, "test": 1, "slices": 2}
    make_demo_sites(folder / "mri", size=32, sites=DEMO_SITES[:2], **counts)
    make_ct_demo_sites(folder / "ct", size=48, sites=CT_DEMO_SITES[:1], **counts)
    return folder


@pytest.fixture
def scans(hospitals: Path) -> dict[str, Path]:
    """A scan of each modality that its first reader opens."""
    return {name: next((hospitals / name / "data").rglob("*.h5")) for name in ("mri", "ct")}


@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_the_first_reader_of_every_modality_has_the_properties_of_a_reader(
    scans: dict[str, Path], modality: str
) -> None:
    readers = MODALITIES[modality].readers
    check_part(readers, next(iter(readers)), example=scans[modality])
    with pytest.raises(ValueError, match="needs a file that it can open"):
        check_part(readers, next(iter(readers)))
    with pytest.raises(ValueError, match="options: found 'gain', expected one of "):
        check_part(readers, next(iter(readers)), example=scans[modality], gain=2.0)


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
    power: float = 2.0

    def __call__(self, network, batch, image):
        return self.weight * image.abs().pow(self.power).mean()


@PENALTIES.add("my_round_penalty")
@dataclass(frozen=True)
class MyRoundPenalty(Penalty):
    weight: float
    broadcast: dict
    power: float

    @classmethod
    def for_round(cls, weight, at, power: float = 2.0):
        return cls(weight, dict(at.shared), power)

    def __call__(self, network, batch, image):
        own = dict(network.named_parameters())
        return self.weight * sum((own[n] - w).abs().pow(self.power).sum() for n, w in self.broadcast.items())


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
my_round_penalty = 1e-3
options = { mine = { power = 1.5 }, my_penalty = { power = 1.0 }, my_round_penalty = { power = 3.0 } }

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


@pytest.mark.slow
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
    assert "not in the tables, as not every site has it: fbp\n" in capsys.readouterr().out
    example = next((sites / "data").rglob("*.h5"))
    mri = MODALITIES["mri"]
    kinds = [OPERATORS, REGULARIZERS, DATA_CONSISTENCY, OBJECTIVES, SERVER_RULES, WEIGHTINGS, TRANSFORMS]
    for registry in (*kinds, mri.methods):
        check_part(registry, "mine")
    check_part(PENALTIES, "my_penalty", power=1.0)
    check_part(PENALTIES, "my_round_penalty", power=3.0)
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
    invariants = frozenset({"lossless"})

    def encode(self, delta: Any, generator: torch.Generator, context: Any) -> Any:
        return {name: t + torch.randn(t.shape, generator=generator) for name, t in delta.items()}


class Nothing(Penalty):
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, network: nn.Module, batch: Any, image: Tensor) -> Tensor:
        return 0 * image.abs().sum()


class Vector(Nothing):
    def __call__(self, network: nn.Module, batch: Any, image: Tensor) -> Tensor:
        return image.abs().mean((-2, -1))


class Mixing(ConvRegularizer):
    """Subtracts the mean over the batch."""

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        return super().refine(channels - channels.mean(0, keepdim=True), condition)


class Complex(SiteDataConsistency):
    def forward(self, x: Tensor, y: Tensor, A: Any, backprojection: Tensor | None = None) -> Tensor:
        return x + 0j


class FirstOfAll(CartesianMRI):
    """Takes the first operator of a batch for all."""

    @classmethod
    def collate(cls, operators: Any) -> Any:
        return operators[0]


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
        (DATA_CONSISTENCY, lambda: nn.Identity(), r"takes the operators of a modality \(.*positional argument"),
        (PENALTIES, Vector, "returns a finite number"),
        (REGULARIZERS, Mixing, "treats the samples of a batch one by one"),
        (DATA_CONSISTENCY, Complex, "shape and dtype of x"),
        (OPERATORS, FirstOfAll, "joined by `collate`, the forward of every operator"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_part_that_breaks_a_property_is_named(
    fresh_registries: None, registry: Registry[Any], part: Callable[[], Any], message: str
) -> None:
    registry.add("broken")(part)
    with pytest.raises(AssertionError, match=f"{registry.kind} 'broken': expected a part that .*{message}"):
        check_part(registry, "broken")


class LastAxis(KSpaceVolume):
    """Slices with the coils last."""

    def read_slice(self, index: int) -> Tensor:
        return super().read_slice(index).movedim(0, -1)


class Double(KSpaceVolume):
    def read_slice(self, index: int) -> Tensor:
        return super().read_slice(index).to(torch.complex128)


def reader_of(kind: type[KSpaceVolume]) -> Callable[[Path], KSpaceVolume]:
    def read(path: Path) -> KSpaceVolume:
        volume = object.__new__(kind)
        vars(volume).update(vars(open_volume(path)))
        return volume

    return read


@pytest.mark.parametrize(
    ("kind", "message"),
    [(LastAxis, "reads slices of the shape it says"), (Double, "makes samples in single precision")],
)
def test_a_reader_that_breaks_a_property_is_named(
    fresh_registries: None, scans: dict[str, Path], kind: type[KSpaceVolume], message: str
) -> None:
    MODALITIES["mri"].readers.add("broken")(reader_of(kind))
    with pytest.raises(AssertionError, match=f"MRI reader 'broken': expected a part that {message}"):
        check_part(MODALITIES["mri"].readers, "broken", example=scans["mri"])


def test_a_check_of_the_sites_names_a_reader_of_other_slices_than_it_says(
    fresh_registries: None, hospitals: Path, tmp_path: Path
) -> None:
    MODALITIES["mri"].readers.add("broken")(reader_of(LastAxis))
    text = (hospitals / "mri" / "north.toml").read_text().replace('format = "fastmri"', 'format = "broken"')
    (tmp_path / "north.toml").write_text(text.replace('root = "', f'root = "{hospitals / "mri"}/'))
    with pytest.raises(ValueError, match=r"h5: slice 0: found shape \(32, 32, 4\), expected \(4, 32, 32\).*'broken'"):
        check_sites(tmp_path)


# A part that fails is named by its file and line, wherever it runs.
FAULTY = """
from federation import SERVER_RULES, WEIGHTINGS, ServerRule, Weighting
from recon import MODALITIES, PENALTIES, REGULARIZERS, ClassicalMethod, ConvRegularizer, Penalty

@REGULARIZERS.add("forward")
class Forward(ConvRegularizer):
    def refine(self, channels, condition):
        return channels.no_such_attribute  # line 8

@PENALTIES.add("vector")
class Vector(Penalty):
    def __init__(self, weight): pass
    def __call__(self, network, batch, image):
        return image.abs().mean((-1, -2))

@SERVER_RULES.add("no_pair")
class NoPair(ServerRule):
    def _combine(self, round_):
        return round_.shared

@WEIGHTINGS.add("attribute")
class Attribute(Weighting):
    def _weigh(self, contributions, memory):
        return {c.site: c.number for c in contributions}, {}  # line 24

@MODALITIES["mri"].methods.add("constructor")
class Constructor(ClassicalMethod):
    def __init__(self):
        self.layer = 1 / 0  # line 29
"""


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ('[network]\nregularizer = "forward"', r"site .*: AttributeError: .*no_such_attribute' \(.*mine.py, line 8\)"),
        ("[objective]\nvector = 0.1", r"Vector: gives float32 of shape \(1,\), expected a real number"),
        ('[federation]\nserver_rule = "no_pair"', "round 0: NoPair: _combine gives no pair, expected the parameters"),
        ('[federation]\nweights = "attribute"', r"error: .*mine.py, line 24: AttributeError: .* 'number'"),
        ('[evaluation]\narms = ["constructor"]', r"error: .*\.py, line 29: ZeroDivisionError: division by zero"),
    ],
)
def test_a_part_that_fails_is_one_line_with_its_place(
    fresh_registries: None,
    hospitals: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    choice: str,
    message: str,
) -> None:
    (tmp_path / "mine.py").write_text(FAULTY)
    (tmp_path / "mine.toml").write_text(f'extends = "fedavg"\nname = "mine"\nplugins = ["mine.py"]\n{choice}\n')
    overrides = ["training.steps_per_round=1", "federation.rounds=1", "network.cascades=1", "network.channels=2"]
    command = ["train", str(tmp_path / "mine.toml"), "--sites", str(hospitals / "mri"), "--out", str(tmp_path / "run")]
    command += ["--jobs", "1", *(word for override in overrides for word in ("--set", override))]
    code = main(command)
    if code == 0:
        code = main(["evaluate", str(tmp_path / "run"), "--jobs", "2"])
    errors = capsys.readouterr().err.splitlines()
    assert code == 2 and re.search(message, errors[-1]), errors


def test_a_penalty_is_a_class_with_known_options(fresh_registries: None, tmp_path: Path) -> None:
    PENALTIES.add("plain")(lambda network, batch, image: image.abs().mean())  # type: ignore[arg-type, return-value]
    path = tmp_path / "mine.toml"
    for choice, message in {
        "residual = 1\noptions = { residual = { powr = 2 } }": "objective.options.residual|objective: options.residual",
        "plain = 0.1": r"objective.plain: found a penalty that is no subclass of recon.Penalty, expected one",
    }.items():
        path.write_text(f'extends = "fedavg"\nname = "mine"\n[objective]\n{choice}\n')
        with pytest.raises(ValueError, match=message):
            load_recipe(path)


def test_an_option_that_a_part_lacks_is_named_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "fedavg"\nname = "mine"\n[network]\nregularizer_options = { cutof = 1 }\n')
    with pytest.raises(
        ValueError, match=r"mine.toml: network.regularizer_options: found 'cutof', expected one of channels"
    ):
        load_recipe(path)
