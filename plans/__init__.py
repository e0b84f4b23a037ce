"""Bluesky plans for ptychography."""

if __name__ == "plans":
    raise ImportError("import 'ptycho_bluesky.plans', not 'plans'")
