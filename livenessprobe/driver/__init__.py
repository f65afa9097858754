"""Is this driver alive?  Dials the CSI driver, calls Probe and GetPluginInfo, and says why a connection failed."""
