"""The server: one session at a time, the next clients wait."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from recon import DataError, data_error, os_error_line

from ..experiment import Method, Say
from .connection import Connection
from .session import FORMAT, Session

#: Port of the protocol.
PORT = 9002
#: Clients that wait for their session.
_WAITING = 16
_IN_CLEAR = "scans and images travel unencrypted, and whoever reaches the port can send scans"


@dataclass(frozen=True)
class ServeOptions:
    """Where and how long the server listens.

    Parameters
    ----------
    address
        Address of this machine.
    port
        0: any free one.
    seconds
        Longest wait for the next line of a client, and for a client to take an image.
    allow_network
        Whether `address` may be one that other machines reach.
    sessions
        End after so many sessions; None: at Ctrl-C alone.

    Raises
    ------
    DataError
        If a number is out of range, or other machines reach the address and this is not allowed.
    """

    address: str = "127.0.0.1"
    port: int = PORT
    seconds: float = 120.0
    allow_network: bool = False
    sessions: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise data_error("serve", "--port", str(self.port), "0 to 65535", f"leave it out for {PORT}")
        if not 0 < self.seconds <= 86400:
            raise data_error("serve", "--timeout", f"{self.seconds:g}", "up to 86400 seconds", "correct it")
        if not self.allow_network and not self.is_local:
            advice = f"add --allow-network if this is meant: {_IN_CLEAR}"
            raise data_error("serve", "--address", self.address, "an address of this machine alone", advice)

    @property
    def is_local(self) -> bool:
        """Whether no other machine reaches the address."""
        return all(ipaddress.ip_address(str(place[4][0])).is_loopback for place in self.places())

    def places(self) -> list[tuple[Any, ...]]:
        """Family, kind, protocol, name and place of the sockets that the address stands for.

        Raises
        ------
        DataError
            If it stands for nothing.
        """
        try:
            return list(socket.getaddrinfo(self.address, self.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found = f"{self.address!r} ({error})"
            raise data_error("serve", "--address", found, "an address of this machine", "correct it") from None


def serve(method: Method, options: ServeOptions, say: Say) -> None:
    """Reconstruct the slices that clients send by the MRD streaming protocol, until Ctrl-C.

    Every slice is reconstructed on its own as soon as its last line is there, as :meth:`federation.Method.reconstruct`
    would from an ISMRMRD file of these lines. Clients wait in the order in which they came while another has a session.
    A session that cannot go on ends with a text message and one line; the server goes on.

    Parameters
    ----------
    method
        See :func:`federation.load`.
    say
        Prints a line.

    Raises
    ------
    DataError
        If the method is not for MRI, the maps of the site come from another scan, or the address cannot be used.
    """
    _require_lines(method)
    place = options.places()[0]
    with socket.socket(place[0], place[1], place[2]) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(place[4])
            listening.listen(_WAITING)
        except OSError as error:
            found, advice = f"{options.address}:{options.port} ({os_error_line(error)})", "choose another one"
            raise data_error("serve", "--port", found, "a free port of this machine", advice) from None
        if not options.is_local:
            say(f"warning: other machines reach {options.address}: {_IN_CLEAR}")
        say(f"{method.name} listens at {options.address}:{listening.getsockname()[1]}; Ctrl-C ends it")
        number = 0
        while options.sessions is None or number < options.sessions:
            opened, client = listening.accept()
            number += 1
            _session(opened, f"session {number}", f"{client[0]}:{client[1]}", method, options, say)


def _session(opened: socket.socket, name: str, client: str, method: Method, options: ServeOptions, say: Say) -> None:
    def say_of(text: str) -> None:
        lead = next((word for word in ("note: ", "warning: ") if text.startswith(word)), "")
        say(f"{lead}{name}: {text.removeprefix(lead)}")

    say_of(f"{client} connected")
    Session(Connection(opened, options.seconds), method, say_of).run()


def _require_lines(method: Method) -> None:
    """Refuse a method that gets no image from lines alone."""
    if FORMAT not in method.kind.readers:
        found, advice = f"{method.name}, a method for {method.kind.title}", "choose one for MRI"
        raise data_error("serve", "method", found, "one that reconstructs MRI", advice)
    data = getattr(getattr(method, "manifest", None), "data", None)
    for key, allowed in (("calibration_scan", (None,)), ("maps", ("espirit", "low_resolution"))):
        value = getattr(data, key, allowed[0])
        if value not in allowed:
            expected = "coil maps from the slice itself"
            raise DataError(
                f"serve: data.{key} of site {method.attributes.get('site')}: found {value!r}, expected {expected}; "
                "change the manifest of a copy of the site, or choose another method"
            )
