"""`python -m stream_classifier`: the command line."""

import sys

from stream_classifier.cli import main

if __name__ == "__main__":
    sys.exit(main())
