"""What requests cost the Redis store: for sizing (`figure`), and at a store of your own (`__main__`)."""
