"""The server: one ASGI app, two protocols, a page that shows why; no TensorFlow."""
