"""`memory://`: queues and logs inside the process, with the same semantics as a real service.

Whatever is on them lives and dies with the process.
Messages of a queue are delivered in the order of their arrival;
those that come back take their old place again, in front of all that were never delivered.
"""

from asyafw.memory._names import from_url
from asyafw.memory._transport import MemoryTransport

__all__ = ["MemoryTransport", "from_url"]
