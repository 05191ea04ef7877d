"""How models are fitted: the compiled epoch, and what goes with it."""
