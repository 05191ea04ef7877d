"""``python -m tfsoftmax`` is the command line."""

from tfsoftmax.cli import main

main()
