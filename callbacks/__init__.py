"""Bluesky callbacks."""

if __name__ == "callbacks":
    raise ImportError("import 'ptycho_bluesky.callbacks', not 'callbacks'")
