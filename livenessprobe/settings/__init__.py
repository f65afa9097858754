"""The settings in force: flags, environment variables and a TOML file, merged, checked and typed."""
