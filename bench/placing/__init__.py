"""Where sessions are among many replicas: ways to place them, and what happens when replicas come and go."""
