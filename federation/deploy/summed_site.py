"""A deployed site in a masked sum: its key, its entry in the roster, the specification of its rounds."""

from dataclasses import replace

from recon import DataError

from ..config import read_toml
from ..experiment import site_spec
from ..privacy import KINDS, MASKED, Envelope, RoundFiles
from ..recipes import Recipe, masked_sum_of
from ..rounds import SiteSpec
from ..rounds.masked_site import make_key
from ..serialization import MessageError, kind_of
from .policy import PolicyError
from .site_folder import SiteFolder

#: File of the site's key for sums; a key of its own, as one key should not both sign and agree.
KEY = "sum.key"


def deployed_spec(folder: SiteFolder, run: str, recipe: Recipe) -> SiteSpec:
    """The site in the rounds of a run; with a secure sum it masks what it sends.

    Raises
    ------
    PolicyError
        If the roster of the run has not this site with its key, the threshold is below the site's
        ``minimum_participants``, or an earlier sum had the same seed.
    """
    spec = site_spec(folder.manifest, recipe, folder.state(run) / "kept", folder.maps)
    secure = masked_sum_of(recipe, run)
    if secure is None:
        return spec
    listed = recipe.privacy.sites.get(folder.name)
    if listed is None or listed.key != public_key(folder):
        found = "not in the roster" if listed is None else "in the roster with another key"
        raise PolicyError(f"privacy.sites: {folder.name} is {found}; send `fedrecon deploy site roster` to the server")
    least = folder.policy.minimum_participants
    if secure.roster.least < least:
        # Else the sum of a round could be of fewer sites than this one accepts, and no other sum is possible then.
        raise PolicyError(f"privacy.threshold: found {secure.roster.least}, expected at least {least}, the policy's "
                          "minimum_participants")  # fmt: skip
    if (earlier := _earlier_sum(folder, run, recipe.federation.seed)) is not None:
        # Equal seeds give equal updates: if a site drops out of one of the runs, both sums subtract to its update.
        raise PolicyError(f"federation.seed: found {recipe.federation.seed}, expected another than that of run "
                          f"{earlier[:12]}, in which this site has revealed shares")  # fmt: skip
    return replace(spec, secure=secure, key=folder.path / KEY)


def _earlier_sum(folder: SiteFolder, run: str, seed: int) -> str | None:
    """Another run with this seed, or an unknown one, in which the site has revealed shares."""
    for other in sorted(path.parent.name for path in folder.state(run).parent.glob("*/kept")):
        if other == run or not RoundFiles(folder.sums(other)).has_revealed():
            continue
        stored = folder.approvals.recipe_file(other)
        if not stored.is_file() or read_toml(stored)["federation"]["seed"] == seed:
            return other
    return None


def public_key(folder: SiteFolder) -> str:
    """The site's public key for sums in hexadecimal digits; the key is made at the first call."""
    return make_key(folder.path / KEY).public.hex()


def roster_entry(folder: SiteFolder) -> str:
    """The site's entry in the recipe of a masked sum, as TOML.

    Raises
    ------
    DataError
        If the site has no training slices.
    """
    slices = len(folder.manifest.dataset("train", folder.maps)) if folder.manifest.data.train else 0
    if not slices:
        raise DataError(f"{folder.settings.data}: found no training slices, expected some of a site in a sum")
    return f'[privacy.sites.{folder.name}]\nslices = {slices}\nkey = "{public_key(folder)}"\n'


def masked_request(payload: bytes, round: int, rounds: int) -> Envelope | None:
    """The request of a masked training round; None for a broadcast, which only scores in such a run.

    Raises
    ------
    MessageError
        If it is damaged, or of another round than its signature says.
    """
    if (kind := kind_of(payload)) not in KINDS:
        return None
    if round >= rounds:
        raise MessageError(f"request: {kind} of round {round}, expected training in rounds 0 to {rounds - 1}")
    return Envelope.from_bytes(payload, kind, round=round)


def is_of_attempt(stored: bytes, asked: Envelope) -> bool:
    """Whether a stored reply is of this attempt at the round; a repeated round needs new masks."""
    return Envelope.from_bytes(stored, MASKED).nonce == asked.nonce
