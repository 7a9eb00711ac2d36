"""GPUs of this machine that the sites of a run share: memory that each needs, and how many compute at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from recon import DataError

from ..config import config_error
from ..machine import gpu_memory_free
from ..sites import SiteManifest
from ..worker_pool import Queue, run_jobs

Key = TypeVar("Key")


def cards_of(manifests: Iterable[SiteManifest]) -> dict[str, str]:
    """The GPU of every site that has one; errors of :func:`card_of`."""
    return {manifest.name: card for manifest in manifests if (card := card_of(manifest)) is not None}


def card_of(manifest: SiteManifest) -> str | None:
    """The GPU of a site, such as ``cuda:0``; None: it computes on the CPU.

    Raises
    ------
    ConfigError
        If this machine has no such device.
    """
    device = manifest.torch_device()
    return f"cuda:{device.index or 0}" if device.type == "cuda" else None


def free_memory(cards: Iterable[str]) -> dict[str, int]:
    """Free bytes of each GPU, asked in a process that ends: asking takes memory of the GPU until then.

    Raises
    ------
    DataError
        If a GPU does not answer, for example because it has no memory for a context.
    """
    wanted = sorted(set(cards))
    # Two jobs, so that they run in processes of their own.
    found: list[dict[str, int]] = list(run_jobs(_free, [wanted, []], 2)) if wanted else [{}]
    return found[0]


def _free(cards: list[str]) -> dict[str, int]:
    found = {}
    for card in cards:
        try:
            found[card] = gpu_memory_free(card)
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            advice = 'end other programs on it, or give its sites another device, such as "cpu"'
            raise DataError(f"{card}: does not say how much of its memory is free ({reason}); {advice}") from None
    return found


@dataclass(frozen=True)
class GpuShare:
    """Memory of the GPUs of a run.

    Parameters
    ----------
    cards
        GPU of each site that has one.
    needs
        Bytes that a process of each of these sites needs at most, see :func:`.gpu_need`.
    free
        Bytes that are free on each GPU.
    """

    cards: Mapping[str, str]
    needs: Mapping[str, int]
    free: Mapping[str, int]

    @property
    def at_once(self) -> dict[str, int]:
        """Processes at a time on each GPU, at least 1: as many of the largest as fit."""
        return {card: max(1, free // self._largest(card)) for card, free in self.free.items()}

    @property
    def queue(self) -> Queue:
        """Places of the sites by name."""
        return Queue(self.cards, self.at_once)

    def require_room(self, manifests: Iterable[SiteManifest]) -> None:
        """Refuse a site that does not fit on its GPU alone.

        Raises
        ------
        ConfigError
            With what it needs, what is free and what to do.
        """
        for manifest in manifests:
            card = self.cards.get(manifest.name)
            if card is not None and self.needs[manifest.name] > self.free[card]:
                found = f"{_gigabytes(self.free[card])} free on {card}"
                expected = f"{_gigabytes(self.needs[manifest.name])}, the most that site {manifest.name} needs"
                advice = (
                    'end other programs on it, use smaller slices, fewer cascades or a smaller batch, or device = "cpu"'
                )
                raise config_error(manifest.path, "device", found, expected, advice)

    def lines(self) -> list[str]:
        """What each GPU has to hold, one line each."""
        found = []
        for card, free in self.free.items():
            each = ", ".join(f"{s} {_gigabytes(self.needs[s])}" for s, place in self.cards.items() if place == card)
            at_once = self.at_once[card]
            found.append(f"  {card}: at most {each}; {_gigabytes(free)} free, room for {at_once} at a time")
        return found

    def _largest(self, card: str) -> int:
        return max(self.needs[site] for site, place in self.cards.items() if place == card)


def queue_of(places: Mapping[Key, str], at_once: Mapping[str, int]) -> Queue:
    """Queue of jobs by their GPUs; where the room on a GPU is not known, one at a time."""
    return Queue(places, {card: at_once.get(card, 1) for card in places.values()})


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 95e6 else f"{max(count / 1e6, 1):.0f} MB"
