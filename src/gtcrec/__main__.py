"""`python -m gtcrec` is the command line."""

from gtcrec.cli.main import main

if __name__ == "__main__":
    main()
