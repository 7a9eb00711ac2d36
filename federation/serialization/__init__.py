"""Named tensors as bytes, messages between server and sites, checkpoints."""

from recon import State

from .checkpoints import Checkpoint, StoredState, load_checkpoint, load_newest, prune, save_checkpoint, saved_rounds
from .messages import Broadcast, SiteReport, SiteUpdate, Wire, round_of
from .packing import (
    Layout,
    MessageError,
    below,
    check_finite,
    digest,
    join,
    largest_message,
    layout,
    layout_digest,
    pack,
    split,
    under,
    unpack,
)

__all__ = [
    "Broadcast",
    "Checkpoint",
    "Layout",
    "MessageError",
    "SiteReport",
    "SiteUpdate",
    "State",
    "StoredState",
    "Wire",
    "below",
    "check_finite",
    "digest",
    "join",
    "largest_message",
    "layout",
    "layout_digest",
    "load_checkpoint",
    "load_newest",
    "pack",
    "prune",
    "round_of",
    "save_checkpoint",
    "saved_rounds",
    "split",
    "under",
    "unpack",
]
