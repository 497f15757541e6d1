"""Submit jobs and follow them."""

from asyafw.client._catalogue import Catalogue
from asyafw.client._client import Client
from asyafw.client._job import Job

__all__ = ["Catalogue", "Client", "Job"]
