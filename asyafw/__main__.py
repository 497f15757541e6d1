"""`python -m asyafw`."""

import sys

from asyafw.cli import main

# Processes that anyio starts for handlers import the main module under another name.
if __name__ == "__main__":
    sys.exit(main())
