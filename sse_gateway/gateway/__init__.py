"""The seam between delivery and store: the only part that knows both.

gateway      `Gateway`: what the web layer calls; owns the rest
handover     bringing one stream from its cursor to live without a gap
live         live messages, and catching a session up when they are not whole
replay       from what was read to the frames a stream gets (pure)
answers      a human's answer, checked and put through the script that lets one win
deadlines    open requests: the warning before, and the settling at, their deadline
presence     who is watching, told to Redis
"""

from sse_gateway.gateway.gateway import Gateway
from sse_gateway.gateway.tickets import TICKET_SECONDS

__all__ = ["TICKET_SECONDS", "Gateway"]
