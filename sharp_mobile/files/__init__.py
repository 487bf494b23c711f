"""Files that are read with care and written whole: JSON, YAML, digests, locks, outputs, who owns them."""
