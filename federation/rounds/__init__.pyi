from .local_transport import InProcessRuntime as InProcessRuntime
from .loop import QuorumError as QuorumError, RoundTime as RoundTime, RunResult as RunResult, run_rounds as run_rounds
from .replies import Check as Check, Replies as Replies, Requests as Requests
from .round_log import Row as Row, append_rows as append_rows, drop_rows as drop_rows, read_rows as read_rows
from .site import (
    LocalResult as LocalResult,
    RoundContext as RoundContext,
    Site as Site,
    SiteSpec as SiteSpec,
    SiteTask as SiteTask,
    initial_network as initial_network,
)
from .transport import ReplyStream as ReplyStream, SiteFailure as SiteFailure, Transport as Transport
