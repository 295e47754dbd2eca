"""What happens inside the Redis: the names of keys, and the scripts, each one atomic step.

Every key and the Pub/Sub channel of one address have one hash tag, so that they are in one place
of a Cluster.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

#: What no address has in it, for what would end a hash tag.
_BRACE = "\x01"


class Keys(NamedTuple):
    """The names of one address in one namespace."""

    #: The Pub/Sub channel.
    channel: str
    #: A stream of the messages that are kept: ``m`` as between processes, ``t`` ms, ``g`` the tag.
    history: str
    #: A hash: the epoch, offset and tag of the newest message, and how much is kept.
    meta: str
    #: A hash of those who listen.
    presence: str

    def once(self, key: str) -> str:
        """Where a send with ``key`` leaves the id that it got."""
        return f"{self.channel}:once:{key}"


def keys_of(namespace: str, address: str) -> Keys:
    """The names of ``address``."""
    base = f"stargate:{{{namespace}:{address.replace('}', _BRACE)}}}"
    return Keys(base, f"{base}:history", f"{base}:meta", f"{base}:presence")


class Script:
    """A script, known to a Redis by the hash of its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


#: Gives an address a position where it has none, in ``found``: its epoch, offset and tag.
_POSITION = """
local found = redis.call('HMGET', meta, 'epoch', 'top', 'tag')
if not found[1] then
  found = {epoch, '0', '000000000000'}
  redis.call('DEL', history)
  redis.call('HSET', meta, 'epoch', epoch, 'top', '0', 'tag', found[3])
end
"""

#: Seconds that a position is remembered longer than the messages.
POSITION_SECONDS = 3600

#: Sends one message, once: repeats of its key get the id that it got. The first write is one that
#: a Redis without memory refuses, and what a user may not do comes before what can't be undone, so
#: that either all happens or nothing does. A size of 0 says that nothing is kept from here on.
#: Returns the id, whether it is a repeat, and how many connections the channel has.
#:
#: The channel is among the keys: so a node of a Cluster does not run this while the slot is being
#: moved (there is always a key that is not there), and nothing is said at the new node while they
#: listen at the old one.
PUBLISH = Script(
    """
local once, history, meta, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local publish, head, tail, repeat_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local size, ttl, epoch, tag = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
local before = redis.call('GET', once)
if before then
  -- Something is written: WAIT then waits for it, and so for what came before, on any server.
  redis.call('PEXPIRE', once, repeat_ms)
  return {before, 1, 0}
end
redis.call('SET', once, '-', 'PX', repeat_ms)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, offset, said = '-', nil, size >= 0
local wire = head .. '- ' .. string.format('%.0f', now) .. tail
if size < 0 then
  local known = redis.call('HMGET', meta, 'size', 'ttl')
  size, ttl = tonumber(known[1]) or 0, tonumber(known[2]) or 0
end
if size > 0 then
"""
    + _POSITION
    + f"""
  offset = string.format('%.0f', found[2] + 1)
  id = found[1] .. '-' .. offset .. '-' .. tag
  wire = head .. id .. ' ' .. string.format('%.0f', now) .. tail
elseif said then
  redis.call('DEL', history, meta)
end
local told = redis.pcall(publish, channel, wire)
if type(told) == 'table' and told.err then
  redis.call('DEL', once)
  return told
end
if size > 0 then
  redis.call('XADD', history, 'MAXLEN', size + 1, offset .. '-0', 'm', wire, 't', now, 'g', tag)
  for _ = 1, 32 do
    local oldest = redis.call('XRANGE', history, '-', '+', 'COUNT', 1)[1]
    if not oldest or tonumber(oldest[2][4]) >= now - ttl then break end
    redis.call('XDEL', history, oldest[1])
  end
  redis.call('HSET', meta, 'top', offset, 'tag', tag, 'size', size, 'ttl', ttl)
  redis.call('PEXPIRE', history, ttl)
  redis.call('PEXPIRE', meta, ttl + {POSITION_SECONDS * 1000})
  redis.call('SET', once, id, 'PX', repeat_ms)
end
return {{id, 0, told}}
"""
)

#: Says how much of an address is kept from now on; returns its position.
TOUCH = Script(
    """
local history, meta = KEYS[1], KEYS[2]
local size, ttl, epoch = ARGV[1], ARGV[2], ARGV[3]
"""
    + _POSITION
    + f"""
redis.call('HSET', meta, 'size', size, 'ttl', ttl)
redis.call('PEXPIRE', meta, ttl + {POSITION_SECONDS * 1000})
return found
"""
)

#: Bytes of messages after which a part of a history ends: it is one reply, and held in memory.
PART_BYTES = 1_048_576

#: Reads a part of a history: behind a position that must still be what it was, or the newest.
#: Returns the address's position, whether the asked one holds, and entries.
READ = Script(
    f"""
local history, meta = KEYS[1], KEYS[2]
local epoch, offset, tag, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local found = redis.call('HMGET', meta, 'epoch', 'top', 'tag', 'ttl', 'size')
if not found[1] then return {{false, false, false, 0, {{}}}} end
local top = tonumber(found[2])
local clock = redis.call('TIME')
local oldest = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(found[4] or 0)
local function young(entry) return entry and tonumber(entry[2][4]) >= oldest end
local entries, holds = {{}}, 1
if offset < 0 then
  count = math.min(count, tonumber(found[5] or 0))
  local newest = count > 0 and redis.call('XREVRANGE', history, '+', '-', 'COUNT', count) or {{}}
  for i = #newest, 1, -1 do
    if young(newest[i]) then entries[#entries + 1] = newest[i][2][2] end
  end
elseif epoch ~= found[1] or offset > top then
  holds = 0
elseif offset == top then
  if tag ~= found[3] then holds = 0 end
else
  local place = string.format('%.0f', math.max(offset, 1)) .. '-0'
  local here = redis.call('XRANGE', history, place, '+', 'COUNT', 1)[1]
  local same = young(here) and here[1] == place and (offset == 0 or here[2][6] == tag)
  if not same then holds = 0 end
  local bytes, next = 0, (offset == 0 and '' or '(') .. place
  while holds == 1 and #entries < count and bytes < {PART_BYTES} do
    local some = redis.call('XRANGE', history, next, '+', 'COUNT', math.min(16, count - #entries))
    if #some == 0 then break end
    for _, each in ipairs(some) do
      entries[#entries + 1], bytes, next = each[2][2], bytes + #each[2][2], '(' .. each[1]
    end
  end
end
return {{found[1], found[2], found[3], holds, entries}}
"""
)
