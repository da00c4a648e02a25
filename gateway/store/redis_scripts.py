"""What Redis does in one go: scripts, each of which touches one hash slot. Only the modules of `redis` call them.

Whatever is decided about a response is decided by two of them. `APPEND` is the hot one: it compares epoch and tail,
and appends. `COMMIT` is every other write: what it writes was decided elsewhere (by `rules`) on a state that it finds
unchanged, or else it writes nothing and answers with the newest. Both publish what they wrote to the log's channel.

A record's field `writes` has the names of the last few writes, the newest first: that one is its version, and a write
that is sent again because its answer was lost is found there and not done twice.
"""

import hashlib
from dataclasses import dataclass, field

NAME_BYTES = 16
"""A write's name is as long as this."""
_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Script:
    """A script in Lua, which a server knows by its hash once it has run it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


# Positions may be larger than what a number in Lua holds exactly: they are compared as texts.
# KEYS: record, log, channel. ARGV: epoch, tail, new tail, head of the message, how it is published, then id and frame
# of each event.
APPEND = Script("""
local known = redis.call('HMGET', KEYS[1], 'epoch', 'tail', 'end')
if not known[1] then return {'missing'} end
if known[1] ~= ARGV[1] then return {'fenced', known[1]} end
if known[3] ~= '' then return {'closed'} end
if known[2] ~= ARGV[2] then return {'tail', known[2]} end
if #ARGV == 5 then return {'done'} end
local message = {ARGV[4]}
for i = 6, #ARGV, 2 do
    redis.call('XADD', KEYS[2], ARGV[i], 'f', ARGV[i + 1])
    message[#message + 1] = ARGV[i + 1]
end
if known[2] == '-1' then
    local left = redis.call('PTTL', KEYS[1])
    if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
end
redis.call('HSET', KEYS[1], 'tail', ARGV[3])
redis.call(ARGV[5], KEYS[3], table.concat(message))
return {'done'}
""")

# KEYS: record, log, body, due, channel. ARGV: name of this write, version ('': there is none), tail ('': any), how long
# record and due are kept (ms; '': as they are), how long log and body are, head of the message ('': none), how many
# fields of the record (below 0: what it had goes), of the body (-1: it goes, and so does the log), of what is due; how
# the message is published; then these fields with their values, then id and frame of each event.
COMMIT = Script(f"""
local writes = redis.call('HGET', KEYS[1], 'writes') or ''
if writes ~= '' and string.find(writes, ARGV[1], 1, true) then return {{'done'}} end
if string.sub(writes, 1, {NAME_BYTES}) ~= ARGV[2]
    or (ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'tail') ~= ARGV[3]) then
    return {{'changed', redis.call('HGETALL', KEYS[1])}}
end
local at = 11
local function put(key, count)
    for _ = 1, count do
        redis.call('HSET', key, ARGV[at], ARGV[at + 1])
        at = at + 2
    end
end
local fields, fields_of_body = tonumber(ARGV[7]), tonumber(ARGV[8])
if fields < 0 then redis.call('DEL', KEYS[1]) end
put(KEYS[1], math.abs(fields))
redis.call('HSET', KEYS[1], 'writes', string.sub(ARGV[1] .. writes, 1, {NAME_BYTES * _REMEMBERED}))
if fields_of_body < 0 then redis.call('UNLINK', KEYS[2], KEYS[3]) else put(KEYS[3], fields_of_body) end
put(KEYS[4], tonumber(ARGV[9]))
local message = {{ARGV[6]}}
for i = at, #ARGV, 2 do
    redis.call('XADD', KEYS[2], ARGV[i], 'f', ARGV[i + 1])
    message[#message + 1] = ARGV[i + 1]
end
if ARGV[4] ~= '' then
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    if ARGV[9] ~= '0' then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
end
if ARGV[5] ~= '' then
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
    redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
if ARGV[6] ~= '' then redis.call(ARGV[10], KEYS[5], table.concat(message)) end
return {{'done'}}
""")

# KEYS: record, log. ARGV: id to begin with, bytes at the most. Tail, end, then id and frame of each event; of a log
# that went on purpose an empty list, else nothing.
PAGE = Script("""
local known = redis.call('HMGET', KEYS[1], 'tail', 'end', 'kept')
if known[3] ~= '1' then
    if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
    return false
end
local page, room, from = {known[1], known[2]}, tonumber(ARGV[2]), ARGV[1]
while true do
    local some = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 16)
    for _, entry in ipairs(some) do
        room = room - #entry[2][2]
        if room < 0 and #page > 2 then return page end
        page[#page + 1] = entry[1]
        page[#page + 1] = entry[2][2]
    end
    if #some < 16 or room <= 0 then return page end
    from = '(' .. some[#some][1]
end
""")

_NOW = "local now = redis.call('TIME')\nnow = now[1] * 1000 + math.floor(now[2] / 1000)\n"

# KEYS: processes. ARGV: this process, for how long it lives (ms; 0: not any more). How many live.
RENEW = Script(f"""{_NOW}
local ttl = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], ttl > 0 and now + ttl or 0, ARGV[1])
return redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf')
""")

# KEYS: processes. Those that live.
LIVING = Script(f"{_NOW} return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')")

# KEYS: a hash. ARGV: field, value. Deletes the field if it has this value.
UNNAME = Script("if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end")

# KEYS: a hash. ARGV: field, value. Sets the field if it is there.
AMEND = Script("""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
""")

# KEYS: a key. ARGV: value. Deletes the key if it has this value.
UNLOCK = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end")
