"""Compare methods on equal terms. The same as `fedrecon compare`."""

import sys

from federation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
