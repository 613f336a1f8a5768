"""The Carousel SDK."""
