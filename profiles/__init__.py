"""Templates: what ``ptycho-bluesky profile new`` copies for a beamline. Data, not modules to import."""

if __name__ == "profiles":
    raise ImportError("import 'ptycho_bluesky.profiles', not 'profiles'")
