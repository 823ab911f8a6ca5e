"""`python -m encoderkit` is the command `encoderkit`."""

from encoderkit.cli import main

if __name__ == "__main__":
    main()
