from .deepinv import from_deepinv as from_deepinv
from .deepinv import to_deepinv as to_deepinv
