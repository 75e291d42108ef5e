"""`python -m spherekeras` is the command `spherekeras`."""

import sys

from spherekeras.cli import main

sys.exit(main())
