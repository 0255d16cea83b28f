"""The router: which edit a prompt asks for."""
