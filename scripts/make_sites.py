"""Write site manifests for a folder of data. The same as `fedrecon sites make`."""

import sys

from federation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sites", "make", *sys.argv[1:]]))
