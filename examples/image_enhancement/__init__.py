"""A photo goes in, a better one comes out, by a route that depends on the photo."""

from asyafw import App
from examples.image_enhancement.actors import ACTORS

__all__ = ["app"]

app = App(actors=ACTORS, flows={"enhance": ["load", "assess", "plan"]})
