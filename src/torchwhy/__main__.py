"""``python -m torchwhy`` is the command line."""

from torchwhy.cli import main

main()
