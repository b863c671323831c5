"""Client of the Warren message broker, blocking. The module warren.aio has the same names for asyncio.

A Client knows the addresses of several nodes and moves on to another when one fails: publishers publish again what is not
confirmed, and nothing is stored twice; consumers go on; what was declared is declared again. A program sees a pause and
nothing else.
"""

from ._blocking import Client as Client
from ._blocking import Consumer as Consumer
from ._blocking import Delivery as Delivery
from ._blocking import Publisher as Publisher
from ._shared import *
