//! The scripts of locks. KEYS are always the lock and its record.
//!
//! The lock is a string, as every language has it: the identifier of its only holder, or the word `shared`. The
//! record is a hash, which nobody needs who only wants to be excluded:
//!
//! | field | value |
//! |---|---|
//! | `token` | the last fencing token |
//! | `id`, `owner` | the last holder alone, and the name that it gave itself |
//! | `r:` and an identifier | the server's time in milliseconds when this shared hold is over |
//! | `q:` and an identifier | since when (microseconds) and until when (milliseconds) this one waits |
//!
//! A record lives for a day after a token was minted, and at least as long as what stands in it. Tokens are not the
//! worse for it: a new record begins with the server's time.

/// Takes a lock alone. ARGV: the identifier, the lease in milliseconds, the holder's name or nothing, 1 for its turn
/// in the queue, for how many milliseconds a wait counts or 0.
/// Answers 1 and the fencing token if the identifier holds the lock, so that it may be sent again, else 0 and
/// after how long to ask again (-1: the lock has no end). HINCRBY reads a field without having it tracked: a holder
/// is not to be told of what it writes itself.
pub(in crate::store::redis) const LOCK: &str = "\
local time = redis.call('TIME') \
local us = time[1] * 1000000 + time[2] \
local ms = math.floor(us / 1000) \
local ahead \
if ARGV[4] == '1' then \
local all = redis.pcall('HGETALL', KEYS[2]) \
if all.err then return all end \
local since = us \
local own = redis.call('HGET', KEYS[2], 'q:' .. ARGV[1]) \
if own then since = tonumber(string.match(own, '^%d+')) end \
for at = 1, #all, 2 do \
if string.sub(all[at], 1, 2) == 'q:' and string.sub(all[at], 3) ~= ARGV[1] then \
local from, over = string.match(all[at + 1], '^(%d+) (%d+)$') \
from = tonumber(from) over = tonumber(over) \
if not over or over <= ms then redis.call('HDEL', KEYS[2], all[at]) \
elseif (from < since or (from == since and string.sub(all[at], 3) < ARGV[1])) \
and (not ahead or over < ahead) then ahead = over end \
end end end \
local set \
if not ahead then \
set = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) \
if type(set) == 'table' and set.err then return set end \
end \
if not set then \
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held ~= ARGV[1] then \
local left = redis.call('PTTL', KEYS[1]) \
if ARGV[5] ~= '0' and (ARGV[4] == '1' or held == 'shared') then \
local since = redis.pcall('HGET', KEYS[2], 'q:' .. ARGV[1]) \
if type(since) == 'table' then return since end \
since = since and string.match(since, '^%d+') or string.format('%.0f', us) \
redis.call('HSET', KEYS[2], 'q:' .. ARGV[1], since .. ' ' .. string.format('%.0f', ms + ARGV[5])) \
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end \
end \
if not held then left = math.max(ahead and ahead - ms or 0, 0) end \
return {0, left} end end \
local last = redis.pcall('HINCRBY', KEYS[2], 'token', 0) \
if type(last) == 'table' then if set then redis.call('DEL', KEYS[1]) end return last end \
if not set and last > 0 and redis.call('HGET', KEYS[2], 'id') == ARGV[1] then \
return {1, string.format('%.0f', last)} end \
if last >= us then us = last + 1 end \
local token = string.format('%.0f', us) \
redis.call('HSET', KEYS[2], 'token', token, 'id', ARGV[1]) \
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'owner', ARGV[3]) else redis.call('HDEL', KEYS[2], 'owner') end \
redis.call('HDEL', KEYS[2], 'q:' .. ARGV[1]) \
local day = 86400000 \
if tonumber(ARGV[2]) > day then day = ARGV[2] end \
if redis.call('PTTL', KEYS[2]) < tonumber(day) then redis.call('PEXPIRE', KEYS[2], day) end \
return {1, token}";

/// Takes a part of a shared lock. ARGV: the identifier, the lease in milliseconds, how many may hold it at once.
/// Answers 1 if the identifier holds it, else 0 and after how long to ask again (-1: the lock has no end).
pub(in crate::store::redis) const SHARE: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held and held ~= 'shared' then return {0, redis.call('PTTL', KEYS[1])} end \
local all = redis.pcall('HGETALL', KEYS[2]) \
if all.err then return all end \
local time = redis.call('TIME') \
local ms = math.floor(time[1] * 1000 + time[2] / 1000) \
local ends = ms + ARGV[2] \
local count, last, mine, soonest, waits = 0, ends, false, nil, nil \
for at = 1, #all, 2 do \
local kind, who = string.sub(all[at], 1, 2), string.sub(all[at], 3) \
local over = tonumber(string.match(all[at + 1], '%d+$')) or 0 \
if kind == 'r:' or kind == 'q:' then \
if over <= ms then redis.call('HDEL', KEYS[2], all[at]) \
elseif kind == 'q:' then if not waits or over < waits then waits = over end \
elseif who == ARGV[1] then mine = true \
else count = count + 1 \
if not soonest or over < soonest then soonest = over end \
if over > last then last = over end end end end \
if mine and held then return {1} end \
local full = count >= tonumber(ARGV[3]) \
if full or waits then \
if not full or (waits and waits < soonest) then soonest = waits end \
return {0, soonest - ms} end \
if not held then \
local set = redis.pcall('SET', KEYS[1], 'shared', 'PX', string.format('%.0f', last - ms)) \
if set.err then return set end \
elseif redis.call('PTTL', KEYS[1]) < last - ms then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', last - ms)) end \
redis.call('HSET', KEYS[2], 'r:' .. ARGV[1], string.format('%.0f', ends)) \
if redis.call('PTTL', KEYS[2]) < last - ms then redis.call('PEXPIRE', KEYS[2], string.format('%.0f', last - ms)) end \
return {1}";

/// Gives a lock that is held alone a new expiry. ARGV: the identifier, the milliseconds.
/// Answers 1 if the identifier held it.
pub(in crate::store::redis) const EXTEND: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held ~= ARGV[1] then return 0 end \
redis.call('PEXPIRE', KEYS[1], ARGV[2]) \
local day = 86400000 \
if tonumber(ARGV[2]) > day then day = ARGV[2] end \
redis.call('PEXPIRE', KEYS[2], day) \
return 1";

/// Gives a part of a shared lock a new expiry. ARGV: the identifier, the milliseconds.
/// Answers 1 if the identifier held it.
pub(in crate::store::redis) const EXTEND_SHARE: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
local over = redis.pcall('HGET', KEYS[2], 'r:' .. ARGV[1]) \
if type(over) == 'table' then return over end \
local time = redis.call('TIME') \
local ms = math.floor(time[1] * 1000 + time[2] / 1000) \
if held ~= 'shared' or not over or tonumber(over) <= ms then return 0 end \
redis.call('HSET', KEYS[2], 'r:' .. ARGV[1], string.format('%.0f', ms + ARGV[2])) \
for at = 1, 2 do \
if redis.call('PTTL', KEYS[at]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[at], ARGV[2]) end end \
return 1";

/// Gives a lock back that is held alone, and a place in its queue. ARGV: the identifier.
/// Answers 1 if the identifier held it.
pub(in crate::store::redis) const UNLOCK: &str = "\
redis.pcall('HDEL', KEYS[2], 'q:' .. ARGV[1]) \
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held == ARGV[1] then return redis.call('DEL', KEYS[1]) end \
return 0";

/// Gives a part of a shared lock back. ARGV: the identifier. Answers 1 if the identifier held it.
pub(in crate::store::redis) const UNLOCK_SHARE: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
local all = redis.pcall('HGETALL', KEYS[2]) \
if all.err then return all end \
local time = redis.call('TIME') \
local ms = math.floor(time[1] * 1000 + time[2] / 1000) \
local mine, others = 0, false \
for at = 1, #all, 2 do \
if string.sub(all[at], 1, 2) == 'r:' then \
local over = tonumber(all[at + 1]) or 0 \
if string.sub(all[at], 3) == ARGV[1] then \
if over > ms then mine = 1 end \
redis.call('HDEL', KEYS[2], all[at]) \
elseif over > ms then others = true end end end \
if held ~= 'shared' then return 0 end \
if not others then redis.call('DEL', KEYS[1]) end \
return mine";

/// Writes a string unless it was written with a larger token. KEYS: the lease, the key, the mark. ARGV: the value, the
/// milliseconds it lives or 0, the token. Answers 1 if it was written.
/// Tokens are compared as text, longer ones last: a number of Lua's holds 53 bits.
pub(in crate::store::redis) const FENCED_SET: &str = "\
local last = redis.pcall('GET', KEYS[3]) \
if type(last) == 'table' then return last end \
if last and (#last > #ARGV[3] or (#last == #ARGV[3] and last > ARGV[3])) then return 0 end \
local set \
if ARGV[2] == '0' then set = redis.pcall('SET', KEYS[2], ARGV[1]) \
else set = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end \
if set.err then return set end \
if ARGV[2] == '0' then redis.call('SET', KEYS[3], ARGV[3]) \
else local day = 86400000 \
if tonumber(ARGV[2]) > day then day = ARGV[2] end \
redis.call('SET', KEYS[3], ARGV[3], 'PX', day) end \
redis.call('DEL', KEYS[1]) \
return 1";
