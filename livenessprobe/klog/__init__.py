"""How is the log written? Records in klog's form, as text or JSON; a thread writes them to stderr or to files."""
