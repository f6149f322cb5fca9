"""What the commands' exit codes mean; each command's help says which it gives."""

from ernie_qa.verdict import Status

OK = 0
FAILED = 1
"""What was asked is answered with no: a verdict that fails, files that differ, a model that does not fit."""
BAD_INPUT = 2
"""Bad input, or something missing here: nothing was judged. argparse gives the same."""
NOT_COMPARABLE = 3
INTERRUPTED = 130
"""What shells give for a command that SIGINT ended: 128 and the signal's number."""
OF_STATUS = {
    Status.PASS: OK,
    Status.FAIL: FAILED,
    Status.NOT_COMPARABLE: NOT_COMPARABLE,
    Status.NOT_APPLICABLE: NOT_COMPARABLE,
}
"""A verdict in which nothing applied passed nothing."""
