"""`python -m command`: the same as the `desk` command."""

from command.cli import main

if __name__ == "__main__":
    main(prog_name="desk")
