"""Ways to run a model's step, one file each; `twin.predictor` imports the one that is asked for."""
