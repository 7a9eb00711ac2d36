"""Train a federation from a recipe and a folder of site manifests. The same as `fedrecon train`."""

import sys

from federation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
