"""The command line: every command is a few lines over the Python API, and imports it when it runs."""

from surgery.cli import models, pictures, speed, weights
from surgery.cli.frame import main

__all__ = ["main"]

for _command in (*models.COMMANDS, *pictures.COMMANDS, *speed.COMMANDS, *weights.COMMANDS, models.ops):
    main.add_command(_command)
