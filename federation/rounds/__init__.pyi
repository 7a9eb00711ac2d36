from .local_transport import InProcessRuntime as InProcessRuntime
from .loop import QuorumError as QuorumError
from .loop import RoundTime as RoundTime
from .loop import RunResult as RunResult
from .loop import run_rounds as run_rounds
from .replies import Check as Check
from .replies import Replies as Replies
from .replies import Requests as Requests
from .round_log import Row as Row
from .round_log import append_rows as append_rows
from .round_log import drop_rows as drop_rows
from .round_log import read_rows as read_rows
from .site import (
    LocalResult as LocalResult,
)
from .site import (
    RoundContext as RoundContext,
)
from .site import (
    Site as Site,
)
from .site import (
    SiteSpec as SiteSpec,
)
from .site import (
    SiteTask as SiteTask,
)
from .site import (
    initial_network as initial_network,
)
from .transport import ReplyStream as ReplyStream
from .transport import SiteFailure as SiteFailure
from .transport import Transport as Transport
