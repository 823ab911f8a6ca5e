"""The command line: parse, load the recipe, call the stage, print. The one place for imports inside functions."""
