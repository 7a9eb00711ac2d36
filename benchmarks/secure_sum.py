"""Time and bytes of a secure sum, its error against the float mean, and sites that drop out; one thread, CPU time.

    OMP_NUM_THREADS=1 python benchmarks/secure_sum.py            # all, 10 M numbers included
    OMP_NUM_THREADS=1 python benchmarks/secure_sum.py --small    # 0.1 M numbers

``encode`` and ``mask`` are the seconds at one site, from change to masked vector; ``x stream`` is the time of masking
over that of the plain ChaCha20 streams which it needs, in the same run. ``offer`` makes keys and shares. ``unmask`` are
the seconds at the server. ``x bytes`` are the bytes up and down in a round, all messages, over those without a sum.
``error`` is the largest error of the mean change, for changes of 0.01 rms.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from federation.privacy import (
    CONFIRM,
    MASKED,
    REVEAL,
    SUM,
    Context,
    Envelope,
    Member,
    PrivateKey,
    Roster,
    SecureSum,
    SiteProtocol,
    unmask,
    vector_of,
)
from federation.serialization import State, layout, pack

#: Seconds at a site for masking, and of all work beside training with 100 sites of which 10 drop out.
BARS = {100_000: 0.1, 10_000_000: 2.0}
BAR_ALL, BAR_BYTES, BAR_ERROR = 5.0, 1.05, {32: 1e-6, 64: 1e-12}


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds of CPU time, which other processes do not lengthen much."""
    begin = time.process_time()
    result = function()
    return result, time.process_time() - begin


def changes_of(n_sites: int, size: int) -> dict[str, State]:
    generator = torch.Generator().manual_seed(0)
    return {f"s{i:03d}": {"w": 0.01 * torch.randn(size, generator=generator)} for i in range(n_sites)}


def streams(count: int, n_bytes: int) -> None:
    """The bare streams of so many masks."""
    zeros, buffer = bytes(2**17), bytearray(2**17)
    for number in range(count):
        stream = Cipher(ChaCha20(number.to_bytes(32, "little"), bytes(16)), mode=None).encryptor()
        for begin in range(0, n_bytes, 2**17):
            stream.update_into(zeros[: n_bytes - begin], buffer)


def measure(n_sites: int, size: int, bits: int, gone: int, folder: Path) -> list[str]:
    """One row of the table; checks the sum."""
    names = [f"s{i:03d}" for i in range(n_sites)]
    keys = {name: PrivateKey() for name in names}
    slices = {name: 20 + i for i, name in enumerate(names)}
    roster = Roster({name: Member(slices[name], keys[name].public.hex()) for name in names})
    secure = SecureSum(roster, slices, bits, masked=True, run="0" * 64)

    def site(name: str) -> SiteProtocol:
        """A new object for each request, as a site makes it."""
        return SiteProtocol(name, secure.run, roster, PrivateKey(keys[name].content), folder / name)

    changes, context = changes_of(min(n_sites, 10), size), Context(secure.run, 0, "ab")
    begin = time.process_time()
    own: dict[str, float] = {}
    offers, total = {}, np.zeros(size, f"<u{bits // 8}")
    for name in names:
        offers[name], own["offer"] = timed(lambda name=name: site(name).offer(0, "ab"))
    survivors, expected, weight = names[gone:], torch.zeros(size, dtype=torch.float64), 0.0
    plain = encode = 0.0
    up = down = 0
    for number, name in enumerate(names):
        change = changes[f"s{number % len(changes):03d}"]
        payload, encode = timed(lambda name=name, c=change: secure.encode(name, slices[name], c, {}))
        to_us = {other: offer.to_site(name) for other, offer in offers.items()}
        asked = site(name)
        check(not asked.wrong_offers(0, "ab", to_us), "right offers")
        masked, own["mask"] = timed(lambda a=asked, p=payload, o=to_us: a.mask(0, "ab", vector_of(p[SUM]), o))
        if name in survivors:
            total += masked
        if number == 0:
            body = pack("update", {}, {SUM: payload[SUM]})
            following = {name: offers[name]}
            up = len(Envelope(MASKED, 0, "ab", following, body=body).to_bytes())
            update = pack("update", {}, {"w": change["w"]})
            down = len(Envelope(MASKED, 0, "ab", to_us, next_nonce="ab", body=update).to_bytes())
            plain = len(update)
    codes, reveals = {}, {}
    for name in survivors:
        codes[name], own["confirm"] = timed(lambda name=name: site(name).confirm(0, "ab", survivors))
    for name in survivors:
        to_us = {other: given[name] for other, given in codes.items() if other != name}
        reveals[name], own["reveal"] = timed(lambda name=name, c=to_us: site(name).reveal(0, "ab", survivors, c))
    _, server = timed(lambda: unmask(total, roster, context, offers, survivors, reveals))
    everything = time.process_time() - begin
    for number, name in enumerate(names):
        if name in survivors:
            weight += slices[name]
            expected += slices[name] * changes[f"s{number % len(changes):03d}"]["w"].double()
    mean, _ = secure.mean(total, survivors, layout({"w": expected}), {})
    error = float((mean["w"] - expected / weight).abs().max())
    _, bare = timed(lambda: streams(n_sites, size * bits // 8))
    shares = Envelope(REVEAL, 0, "ab", reveal=reveals[survivors[0]])
    confirmed = Envelope(CONFIRM, 0, "ab", codes=codes[survivors[0]])
    up += len(shares.to_bytes()) + len(confirmed.to_bytes())
    for kind, given in ((CONFIRM, {}), (REVEAL, to_us)):
        down += len(Envelope(kind, 0, "ab", survivors=tuple(survivors), codes=given).to_bytes())
    n_bytes = max(up, down) / plain
    check(own["mask"] <= BARS.get(size, np.inf) or n_sites > 10 or bits == 64, "seconds of masking")
    check(n_bytes <= BAR_BYTES or n_sites > 10 or bits == 64, "bytes")
    check(error <= BAR_ERROR[bits], "error of the mean")
    check(everything <= BAR_ALL or n_sites < 100, "seconds of 100 sites")
    return [
        f"{size / 1e6:g} M", str(n_sites), str(gone), str(bits), f"{own['offer']:.4f}", f"{encode:.3f}",
        f"{own['mask']:.3f}", f"{own['mask'] / bare:.2f}", f"{own['reveal']:.4f}", f"{server:.3f}",
        f"{n_bytes:.3f}", f"{error:.1e}", f"{everything:.1f}",
    ]  # fmt: skip


def check(holds: bool, what: str) -> None:
    """Print a missed bar."""
    if not holds:
        print(f"MISSED: {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="0.1 M numbers only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = ["numbers", "sites", "gone", "bits", "offer s", "encode s", "mask s", "x stream", "reveal s", "unmask s",
             "x bytes", "error", "all s"]  # fmt: skip
    print("  ".join(f"{head:>9}" for head in heads))
    cases = [
        (n, 100_000, bits, gone) for n, gone in ((3, 0), (10, 0), (10, 2), (100, 0), (100, 10)) for bits in (32, 64)
    ]
    if not arguments.small:
        cases += [(n, 10_000_000, 32, gone) for n, gone in ((3, 0), (10, 0), (10, 2))]
    for n_sites, size, bits, gone in cases:
        if n_sites == 100 and bits == 64:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = measure(n_sites, size, bits, gone, Path(folder))
        print("  ".join(f"{cell:>9}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
