"""``python -m lowdim``."""

from lowdim.cli import main

main()
