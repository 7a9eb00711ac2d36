"""Claims registered before the runs: pairs of arms, and the difference that each claim needs."""

from dataclasses import dataclass, replace

from recon import Aim

from .anatomy import ANATOMY, MAIN, UNEQUAL
from .anatomy_persons import MRI_NAMES
from .hospitals import COMPARED
from .presets import WRONG_OPERATOR

#: Arms selected by validation scores, never by test scores: the best personalized and the best federated arm.
BEST_PERSONAL, BEST_FEDERATED = "best_personal", "best_federated"
#: H8: largest part of FedAvg's bytes, up and down, that may travel.
_FEW_BYTES = 0.06


@dataclass(frozen=True)
class Claim:
    """A claim about the difference ``arm`` less ``reference`` in one table."""

    key: str
    text: str
    arm: str
    reference: str
    aim: Aim
    table: str = "together"
    modalities: tuple[str, ...] = COMPARED
    unseen: bool = False  # compare at unseen sites only
    bytes_below: float | None = None  # the arm's bytes, up and down, must be below this part of the reference's
    one_sign: str = ""  # name of a family of claims: one holds only if all of the family agree in sign
    between: tuple[str, str] | None = None  # two sites: the difference at the first less that at the second
    every_site: bool = False  # the claim is about each site alone; it holds if it holds at all of them


_ONE_AND_A_HALF, _ABOVE_ZERO = Aim.at_least(1.5), Aim.above(0.0)

#: H1 to H9 as registered, for simulated hospitals. H6 counts the loss of the federation, so its sign is reversed.
CLAIMS = (
    Claim("H1.same_start", "physics: FedAvg less the same network without data consistency, from the same start",
          "fedavg", "no_physics", _ONE_AND_A_HALF),
    Claim("H1.adjoint", "physics: FedAvg less the same network without data consistency, from the scaled adjoint",
          "fedavg", "no_physics_adjoint", _ONE_AND_A_HALF, modalities=("mri",)),
    Claim("H2.scalar", "kept less shared step", "fedavg", "shared_step", Aim.about_zero(0.1), modalities=("mri",)),
    Claim("H2.scalar", "kept less shared step", "fedavg", "shared_step", Aim.between(0.2, 1.2), modalities=("ct",)),
    Claim("H2.weighting", "kept weighting of the measurement less shared step", "kept_weighting", "shared_step",
          Aim.at_least(0.4)),
    Claim("H2.conditioned", "shared step that knows the scan less shared step", "conditioned_step", "shared_step",
          Aim.at_least(0.4)),
    Claim("H3", "kept data consistency and last cascade less FedAvg", "kept_last_cascade", "fedavg", Aim.at_least(1.0)),
    Claim("H4", "FedAvg with fine-tuning, at equal steps, less FedAvg", "finetune", "fedavg", _ABOVE_ZERO),
    Claim("H5.4", "best personalized less local, 4 slices a site", BEST_PERSONAL, "local", _ABOVE_ZERO,
          "4 slices a site"),
    Claim("H5.32", "best personalized less local, 32 slices a site", BEST_PERSONAL, "local", Aim.none()),
    Claim("H5.256", "best personalized less local, 256 slices a site", BEST_PERSONAL, "local", Aim.none(),
          "256 slices a site"),
    Claim("H5'", "plain FedAvg less local, own anatomy", "fedavg", "local", Aim.none()),
    Claim("H6.S", "centralized, equal samples and updates, less best federated", "joint", BEST_FEDERATED,
          Aim.at_most(0.5), one_sign="H6."),
    Claim("H6.2S", "the same with twice the steps", "joint", BEST_FEDERATED, Aim.at_most(0.5), "twice the steps",
          one_sign="H6."),
    Claim("H6.4S", "the same with four times the steps", "joint", BEST_FEDERATED, Aim.at_most(0.5),
          "four times the steps", one_sign="H6."),
    Claim("H7.conditioned", "unseen site: network that knows the scan less FedAvg", "conditioned", "fedavg",
          _ABOVE_ZERO, unseen=True),
    Claim("H7.finetune", "unseen site: ten steps of its own less FedAvg", "unseen_finetune", "fedavg", _ABOVE_ZERO,
          unseen=True),
    Claim("H8.scales", "channel scales on a frozen base less FedAvg", "fed_scales", "fedavg", Aim.loss_within(0.5),
          bytes_below=_FEW_BYTES),
    Claim("H8.prompts", "prompts on a frozen base less FedAvg", "fedpr", "fedavg", Aim.loss_within(0.5),
          bytes_below=_FEW_BYTES),
    Claim("H9.wrong", "kept learned correction less fixed operator, axis half a pixel off or maps of low resolution",
          "corrected", "fedavg", Aim.at_least(0.5), WRONG_OPERATOR),
    Claim("H9.right", "the same where the operator is right", "corrected", "fedavg", Aim.about_zero(0.1)),
    Claim("int8", "eight bits both ways less float32", "int8", "fedavg", Aim.loss_within(0.05)),
    Claim("topk", "one number in a hundred both ways less float32", "topk", "fedavg", Aim.loss_within(0.2)),
)  # fmt: skip

_MRI_ONLY = ("mri",)
#: Sites with the fewest and the most training slices in the table of unequal numbers.
_SMALLEST, _LARGEST = MRI_NAMES[0], MRI_NAMES[3]

#: Claims about real anatomy, where every arm is trained to its best. H12 and H13 are about measured scans, see
#: benchmarks/starter_weights.py.
ANATOMY_CLAIMS = (
    *(
        replace(claim, table=MAIN)
        for claim in CLAIMS
        if claim.key in ("H1.same_start", "H1.adjoint", "H4", "H5'", "H7.conditioned", "H8.scales", "H8.prompts")
    ),
    Claim("H2.scalar", "step of each site less shared step, both without the noise of the scan", "blind", "shared_step",
          Aim.about_zero(0.1), MAIN, _MRI_ONLY),
    Claim("H2.scalar", "step of each site less shared step, both without the noise of the scan", "blind", "shared_step",
          Aim.between(0.2, 1.2), MAIN, ("ct",)),
    Claim("H2.noise", "noise-aware step less shared step", "fedavg", "shared_step", Aim.at_least(0.4), MAIN),
    Claim("H5.4", "FedAvg with fine-tuning less local, 4 slices a site", "finetune", "local", _ABOVE_ZERO,
          "4 slices a site"),
    Claim("H7.finetune", "unseen site: ten steps of its own less FedAvg", "unseen_finetune", "fedavg", _ABOVE_ZERO,
          MAIN, _MRI_ONLY, unseen=True),
    Claim("H10", "FedAvg with fine-tuning less local, 16 slices a site", "finetune", "local", Aim.at_least(0.5), MAIN,
          _MRI_ONLY),
    Claim("H10", "FedAvg with fine-tuning less local, 16 slices a site", "finetune", "local", _ABOVE_ZERO, MAIN,
          ("ct",)),
    Claim("H11.64", "the same at 64 slices a site", "finetune", "local", Aim.none(), "64 slices a site", _MRI_ONLY),
    Claim("H11.256", "the same at 256 slices a site", "finetune", "local", Aim.none(), "256 slices a site", _MRI_ONLY),
    Claim("H14.smallest", "gain by joining with fine-tuning: site with 4 slices less site with 256, equal scanners",
          "finetune", "local", _ABOVE_ZERO, UNEQUAL, _MRI_ONLY, between=(_SMALLEST, _LARGEST)),
    Claim("H14.loss", "the same gain at the site where it is least", "finetune", "local", Aim.loss_within(0.1), UNEQUAL,
          _MRI_ONLY, every_site=True),
)  # fmt: skip


def claims_of(preset: str) -> tuple[Claim, ...]:
    """Claims of a preset by its name."""
    return ANATOMY_CLAIMS if preset == ANATOMY.name else CLAIMS
