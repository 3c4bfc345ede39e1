"""`python -m surgery` is the command `surgery`."""

from surgery.cli import main

main(prog_name="surgery")
