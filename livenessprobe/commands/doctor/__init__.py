"""`livenessprobe doctor`: finds mistakes in the wiring of a pod.  `gather` collects facts, `checks` judges them."""
