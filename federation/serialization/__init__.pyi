from .checkpoints import (
    Checkpoint as Checkpoint,
    StoredState as StoredState,
    load_checkpoint as load_checkpoint,
    load_newest as load_newest,
    prune as prune,
    save_checkpoint as save_checkpoint,
    saved_rounds as saved_rounds,
)
from .messages import (
    Broadcast as Broadcast,
    SiteReport as SiteReport,
    SiteUpdate as SiteUpdate,
    Wire as Wire,
    round_of as round_of,
)
from .packing import (
    Layout as Layout,
    MessageError as MessageError,
    State as State,
    below as below,
    check_finite as check_finite,
    digest as digest,
    join as join,
    largest_message as largest_message,
    layout as layout,
    layout_digest as layout_digest,
    pack as pack,
    split as split,
    under as under,
    unpack as unpack,
)
