"""Strict reading and atomic writing of files: JSON, YAML, digests, locks, outputs, ownership."""
