from msgspec import Struct
from asyafw.envelope import MSGPACK
class Connection(Struct):
    transport: object
    codec: object = MSGPACK
def open_transport(url):
    if not isinstance(url, str): return Connection(url)
    from asyafw.memory import from_url
    return Connection(from_url(url))
