"""Score a finished run again and write its report. The same as `fedrecon evaluate`."""

import sys

from federation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
