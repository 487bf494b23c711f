"""From texts to tokens: sources → conversation → sequences → windows. Recovery and evaluation share this path."""
