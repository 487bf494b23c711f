"""The same model through the stock exporters."""
