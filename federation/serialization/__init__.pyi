from .checkpoints import (
    Checkpoint as Checkpoint,
)
from .checkpoints import (
    StoredState as StoredState,
)
from .checkpoints import (
    load_checkpoint as load_checkpoint,
)
from .checkpoints import (
    load_newest as load_newest,
)
from .checkpoints import (
    prune as prune,
)
from .checkpoints import (
    save_checkpoint as save_checkpoint,
)
from .checkpoints import (
    saved_rounds as saved_rounds,
)
from .messages import (
    Broadcast as Broadcast,
)
from .messages import (
    SiteReport as SiteReport,
)
from .messages import (
    SiteUpdate as SiteUpdate,
)
from .messages import (
    Wire as Wire,
)
from .messages import (
    round_of as round_of,
)
from .packing import (
    Layout as Layout,
)
from .packing import (
    MessageError as MessageError,
)
from .packing import (
    State as State,
)
from .packing import (
    below as below,
)
from .packing import (
    check_finite as check_finite,
)
from .packing import (
    digest as digest,
)
from .packing import (
    join as join,
)
from .packing import (
    largest_message as largest_message,
)
from .packing import (
    layout as layout,
)
from .packing import (
    layout_digest as layout_digest,
)
from .packing import (
    pack as pack,
)
from .packing import (
    split as split,
)
from .packing import (
    under as under,
)
from .packing import (
    unpack as unpack,
)
