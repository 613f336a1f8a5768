"""Recurrent models as packages: manifest, weights and probe."""
