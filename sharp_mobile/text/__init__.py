"""From texts to tokens: sources → conversation → sequences → windows. Recovery and evaluation read the same."""
