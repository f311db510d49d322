"""`python -m jprune COMMAND`."""

import sys

from jprune.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
