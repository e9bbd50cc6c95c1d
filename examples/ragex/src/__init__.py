"""ragex: searches a folder of code by meaning and by text."""

__version__ = "1.0.0"
