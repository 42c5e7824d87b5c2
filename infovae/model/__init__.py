"""The model and its mathematics: networks, decoders, divergences, the objective. Knows of no file and no run."""
