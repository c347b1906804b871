"""``python -m tritserve``."""

from tritserve.cli.main import main

if __name__ == "__main__":
    main()
