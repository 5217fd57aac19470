"""``python -m modledger.workers`` is the command line."""

from modledger.workers.cli import main

if __name__ == "__main__":
    main()
