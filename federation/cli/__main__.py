"""`python -m federation.cli`: the same as `fedrecon`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
