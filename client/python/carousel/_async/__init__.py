"""The client for asyncio: the same decisions as the blocking one, with awaits."""
