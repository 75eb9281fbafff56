"""``python -m strfcube``: the command line."""

from strfcube.cli.main import main

if __name__ == "__main__":
    main()
