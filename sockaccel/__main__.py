"""``python -m sockaccel`` is the command line."""

from sockaccel.cli.main import main

main()
