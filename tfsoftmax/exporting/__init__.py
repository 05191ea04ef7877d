"""The export folder: formats, proofs, versions."""
