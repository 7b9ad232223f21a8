"""`python -m glvid.synthetic demo FOLDER` renders the shipped clip and its truth."""

import argparse

from glvid.synthetic.demo import write_demo


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(
        prog="python -m glvid.synthetic", description="Render the demo clip and its truth."
    )
    parser.add_argument("what", choices=["demo"])
    parser.add_argument("folder", help="existing folder for demo.mp4 and demo_truth.npz")
    write_demo(parser.parse_args().folder)


if __name__ == "__main__":
    main()
