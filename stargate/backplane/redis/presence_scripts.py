"""What happens inside the Redis for presence: the names of keys, and the scripts.

An address has one hash. In it are:

- a field for each name there (JSON), and ``""`` for listeners without one. Its value is ``1`` where
  the name has been told of as being here, else ``0``, and then `` worker=WebSockets`` for each
  worker that has some;
- ``@worker`` for each of these: the serial number of what it wrote last, and what that made a
  difference to, so that a repeat gets the same answer, and a loss is seen;
- ``@``, the revision of the last event.

Workers have a lease each, and a set of the addresses at which they may have left something.
"""

from __future__ import annotations

from typing import NamedTuple

from stargate.backplane.redis.scripts import Script

#: What a change finds where it does not matter what stands there: the worker's all is replaced.
ANY = "*"

#: What no change finds: it is only looked whether the serial number stands there.
NEVER = "-"

#: The serial number of the last change: all that a worker had is taken away.
GONE = "gone"

#: How long a worker that has been called gone is remembered, in milliseconds: a day. It may have
#: been asleep, and must not go on as if nothing had been said.
REMEMBERED_MS = 86_400_000


class WorkerKeys(NamedTuple):
    """The names of what the workers of one namespace have in common: one hash tag."""

    #: Workers by the time that their lease ends, in ms of the Redis's clock.
    workers: str
    #: Workers that have been called gone, by when.
    gone: str
    #: Changes when something was lost: then every worker writes all that it has again.
    epoch: str
    #: Which epoch each worker has done so in.
    filled: str

    @property
    def _base(self) -> str:
        return self.workers.removesuffix(":workers")

    def addresses(self, worker: str) -> str:
        """The set of the addresses of one worker."""
        return f"{self._base}:worker:{worker}"

    def sweeping(self, worker: str) -> str:
        """Who takes away what a worker has left."""
        return f"{self._base}:sweeping:{worker}"


def worker_keys(namespace: str) -> WorkerKeys:
    """The names in ``namespace``."""
    base = f"stargate:{{{namespace}}}"
    return WorkerKeys(f"{base}:workers", f"{base}:gone", f"{base}:epoch", f"{base}:filled")


_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

#: Changes what a worker has at an address: absolute numbers, so that nothing counts twice. Returns
#: 0 where something else stands there than the worker wrote, and then does nothing; else 1 and who
#: has come and gone by it. With ``ANY`` everything else that the worker had there goes.
CHANGE = Script(
    """
local here, worker, before, serial, settled = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local mine = '@' .. worker
local known, answer = '', '{}'
local stands = redis.call('HGET', here, mine)
if stands then known, answer = string.match(stands, '^(%S+) (.*)$') end
if known == serial then return {1, answer} end
if known == 'gone' or (before ~= '*' and known ~= before) then return {0, '{}'} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local revision = tonumber(redis.call('HGET', here, '@') or 0)
local entry, events = ' ' .. worker .. '=', {}
local function put(field, was, count, told)
  local text = was or '0'
  if told then text = '1' .. string.sub(text, 2) end
  text = string.gsub(text, entry .. '%d+', '', 1)
  if count ~= '0' then text = text .. entry .. count end
  local present = string.find(text, '=', 1, true) ~= nil
  if settled and field ~= '' and present ~= (string.sub(text, 1, 1) == '1') then
    revision = math.max(revision + 1, now)
    local sign = present and '+' or '-'
    events[#events + 1] = {field, sign, string.format('%.0f', revision)}
    text = (present and '1' or '0') .. string.sub(text, 2)
  end
  if text == '0' then
    if was then redis.call('HDEL', here, field) end
  elseif text ~= was then
    redis.call('HSET', here, field, text)
  end
end
if before == '*' then
  local named = {}
  for i = 5, #ARGV, 3 do named[ARGV[i]] = true end
  local all = redis.call('HGETALL', here)
  for i = 1, #all, 2 do
    local field, text = all[i], all[i + 1]
    local stale = string.find(text, entry, 1, true) or text == '1'
    if stale and string.sub(field, 1, 1) ~= '@' and not named[field] then
      put(field, text, '0', false)
    end
  end
end
for i = 5, #ARGV, 3 do
  put(ARGV[i], redis.call('HGET', here, ARGV[i]), ARGV[i + 1], ARGV[i + 2] == '1')
end
answer = cjson.encode(events)
redis.call('HSET', here, '@', string.format('%.0f', revision), mine, serial .. ' ' .. answer)
return {1, answer}
"""
)

#: Removes a worker that has nothing at an address any more, if this is what it wrote last there.
FORGET = Script(
    """
local here, mine, serial = KEYS[1], '@' .. ARGV[1], ARGV[2]
local stands = redis.call('HGET', here, mine)
if not stands then return 1 end
if string.match(stands, '^%S+') ~= serial then return 0 end
redis.call('HDEL', here, mine)
if redis.call('HLEN', here) == 1 and redis.call('HEXISTS', here, '@') == 1 then
  redis.call('DEL', here)
end
return 1
"""
)

#: Renews a worker's lease, also where there is no memory for anything else. Returns 0 where the
#: worker has been called gone; else 1, the epoch, the end of the lease, whether it had one, and all
#: workers, each with what has become of its lease and the epoch that it has written everything in.
LOOK = Script(
    """#!lua flags=allow-oom
local workers, gone, epoch_at, filled = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, lease, least, known, full, lost =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6] == '1'
"""
    + _NOW
    + f"""
redis.call('ZREMRANGEBYSCORE', gone, '-inf', now - {REMEMBERED_MS})
if redis.call('ZSCORE', gone, worker) then return {{0}} end
local epoch = redis.call('GET', epoch_at)
local ends = tonumber(redis.call('ZSCORE', workers, worker) or 0)
local missed = known ~= '' and (lost or ends < least)
if not epoch or (missed and epoch == known) then
  epoch = string.format('%.0f', clock[1] * 1000000 + clock[2])
  redis.call('SET', epoch_at, epoch)
end
if known == '' then full = epoch end
if full ~= '' then redis.call('HSET', filled, worker, full) end
redis.call('ZADD', workers, now + lease, worker)
local held = ends >= now and 1 or 0
local all, found = redis.call('ZRANGE', workers, 0, -1, 'WITHSCORES'), {{}}
for i = 1, #all, 2 do
  local ends = tonumber(all[i + 1])
  local state = ends == 0 and 'ended' or ends < now and 'run out' or 'alive'
  found[#found + 1] = {{all[i], state, redis.call('HGET', filled, all[i]) or ''}}
end
return {{1, epoch, now + lease, held, found}}
"""
)

#: Says at which addresses a worker is about to leave something; 0 where its lease is not there.
LIST = Script(
    """
local workers, addresses = KEYS[1], KEYS[2]
if tonumber(redis.call('ZSCORE', workers, ARGV[1]) or 0) < tonumber(ARGV[2]) then return 0 end
redis.call('SADD', addresses, unpack(ARGV, 3))
return 1
"""
)

#: Undoes ``LIST``, if the lease is still as it was: not where this arrives late, after a failure.
UNLIST = Script(
    """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('SREM', KEYS[2], unpack(ARGV, 3))
"""
)

#: Calls a worker gone, if its lease has run out and nobody else is about it. Returns 1 and the
#: addresses, or 0.
TAKE = Script(
    """
local workers, gone, sweeping, addresses = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, sweeper, claim_ms = ARGV[1], ARGV[2], ARGV[3]
"""
    + _NOW
    + """
local ends = redis.call('ZSCORE', workers, worker)
if not ends or tonumber(ends) >= now then return {0} end
local other = redis.call('GET', sweeping)
if other and other ~= sweeper then return {0} end
redis.call('SET', sweeping, sweeper, 'PX', claim_ms)
redis.call('ZADD', gone, now, worker)
return {1, redis.call('SMEMBERS', addresses)}
"""
)

#: Ends the lease of a worker. Returns those that have ended theirs and are not yet swept away, if
#: nobody is left to do that.
LEAVE = Script(
    _NOW
    + """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then redis.call('ZADD', KEYS[1], 0, ARGV[1]) end
if redis.call('ZCOUNT', KEYS[1], now, '+inf') > 0 then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], 0, 0)
"""
)

#: Removes what is left of a worker that has left nothing at any address.
END = Script(
    """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[4])
return 1
"""
)

#: The workers that have a lease.
ALIVE = Script(
    _NOW
    + """
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
"""
)
