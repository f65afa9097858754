"""How are health and metrics served over HTTP? The ASGI applications, Go's routing rules, every response, the HTTP/1 server."""
