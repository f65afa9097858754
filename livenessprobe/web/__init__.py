"""How is health asked over HTTP? The ASGI application, Go's routing rules, every response, and the HTTP/1 server."""
