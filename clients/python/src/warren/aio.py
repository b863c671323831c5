"""Client of the Warren message broker for asyncio; see the package."""

from ._client import Client as Client
from ._consumer import Consumer as Consumer
from ._consumer import Delivery as Delivery
from ._publisher import Publisher as Publisher
from ._shared import *
