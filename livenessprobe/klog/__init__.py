"""How is it logged? Records as klog writes them, as text or JSON, to stderr or to files, by a thread of its own."""
