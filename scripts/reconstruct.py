"""Reconstruct one k-space file with a trained run. The same as `fedrecon reconstruct`."""

import sys

from federation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reconstruct", *sys.argv[1:]]))
