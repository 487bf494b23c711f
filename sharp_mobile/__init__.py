"""SHARP on phones: share adjacent layers' MLP weights, recover the loss, export to ExecuTorch, measure."""

__version__ = "0.2.0"
