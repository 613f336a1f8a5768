"""The Carousel server: sessions, state, batching and the wire."""
