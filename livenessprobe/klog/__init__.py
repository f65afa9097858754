"""How is it logged? Records in klog's form, as text or JSON; a thread writes them to stderr or to files."""
