"""`python -m tuner` is the command `tune`."""

from tuner.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
