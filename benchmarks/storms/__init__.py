"""A storm over many small jobs, and what they do."""
