"""`python -m tests.support.output_full …`: `desk …` with an output that cannot be written."""

import os

from command.cli import main

if __name__ == "__main__":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    main()
