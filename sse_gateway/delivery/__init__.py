"""Getting frames to open streams: asyncio only; knows nothing of Redis or HTTP."""
