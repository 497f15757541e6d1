"""A FastAPI service with a worker and a client inside."""
