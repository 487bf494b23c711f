"""A plan chosen by measuring how well each layer can imitate another."""
