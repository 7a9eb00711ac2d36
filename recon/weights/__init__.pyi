from .catalog import STARTER_WEIGHTS as STARTER_WEIGHTS
from .catalog import WeightsFile as WeightsFile
from .catalog import is_weights as is_weights
from .catalog import open_weights as open_weights
from .loading import load_weights as load_weights
from .loading import read_weights as read_weights
from .loading import save_weights as save_weights
