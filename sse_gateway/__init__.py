"""A push gateway between browsers (Server-Sent Events) and AI-agent backends (Redis)."""

__version__ = "0.1.0"
