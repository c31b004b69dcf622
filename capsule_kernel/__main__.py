"""The kernel's entry: `python -m capsule_kernel -f CONNECTION_FILE`."""

import sys

from capsule_kernel.front.main import main

sys.exit(main(sys.argv[1:]))
