"""InfoVAE (Zhao, Song, Ermon, AAAI 2019), replicated: its experiments, its claims and their verdicts.

Owns the version and nothing else: importing the package loads no library, so that the command line answers at once.
"""

__version__ = "0.1.0"
