"""Which settings are in force? Flags, environment variables and a TOML file, merged, checked, typed."""
