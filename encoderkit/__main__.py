"""`python -m encoderkit` is the command `encoderkit`."""

from encoderkit.cli.main import main

if __name__ == "__main__":
    main()
