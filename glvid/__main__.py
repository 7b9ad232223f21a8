"""`python -m glvid` is `glvid`."""

from glvid.cli import main

if __name__ == "__main__":
    main()
