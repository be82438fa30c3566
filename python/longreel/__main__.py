"""`python -m longreel`, and the `longreel` command: started only where what it stands on is there."""

import sys


def main() -> None:
    """Run the command line; one line and exit code 2 where it is not installed whole."""
    try:
        from longreel.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("longreel"):
            raise
        package = error.name.partition(".")[0]
        print(f"longreel: the command line needs {package}: pip install {package}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
