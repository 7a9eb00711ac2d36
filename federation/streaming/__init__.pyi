from .server import PORT as PORT
from .server import ServeOptions as ServeOptions
from .server import serve as serve
