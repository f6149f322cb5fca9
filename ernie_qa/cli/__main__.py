"""`python -m ernie_qa.cli`, where the command `ernie-qa` is not on the path."""

import sys

from ernie_qa.cli import main

sys.exit(main())
