"""The round loop, the site that answers it, and the transport between them."""

from .local_transport import InProcessRuntime
from .loop import QuorumError, RoundTime, RunResult, run_rounds
from .replies import Check, Replies, Requests
from .round_log import Row, append_rows, drop_rows, read_rows
from .site import LocalResult, RoundContext, Site, SiteSpec, SiteTask, initial_network
from .transport import ReplyStream, SiteFailure, Transport

__all__ = [
    "Check",
    "InProcessRuntime",
    "LocalResult",
    "QuorumError",
    "Replies",
    "ReplyStream",
    "Requests",
    "RoundContext",
    "RoundTime",
    "Row",
    "RunResult",
    "Site",
    "SiteFailure",
    "SiteSpec",
    "SiteTask",
    "Transport",
    "append_rows",
    "drop_rows",
    "initial_network",
    "read_rows",
    "run_rounds",
]
