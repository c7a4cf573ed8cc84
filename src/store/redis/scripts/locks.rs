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
//! | `q:` and an identifier | its turn (microseconds, or more than all who wait) and until when (milliseconds) it waits |
//!
//! Who shares a lock holds it only while the key is there: a record without its key has no holders. What is not such a
//! number, or not below 2^53, which is where Lua's end, is as good as not there.
//!
//! A record lives for a day after a token was minted, and at least as long as what stands in it. Tokens are not the
//! worse for it: a new record begins with the server's time.

/// A script with what reads the numbers of a record: a number, and the two of a place in the queue.
macro_rules! script {
    ($script:literal) => {
        concat!(
            "local function number(text) \
local is = tonumber(string.match(text or '', '^%d+$')) \
if is and is < 9007199254740992 then return is end end \
local function place(text) \
local from, over = string.match(text, '^(%d+) (%d+)$') \
from = number(from) over = number(over) \
if from and over then return from, over end end ",
            $script
        )
    };
}

/// Takes a lock alone. ARGV: the identifier, the lease in milliseconds, the holder's name or nothing, 1 for its turn
/// in the queue, for how many milliseconds a wait counts or 0.
/// Answers 1 and the fencing token if the identifier holds the lock, so that it may be sent again, else 0 and
/// after how long to ask again (-1: the lock has no end).
///
/// A place in the queue is written again when half of its time is over, not with each try: all who wait are told
/// of every write, this one too, and try again. A holder is not to be told of what it writes itself, so whoever gets
/// the lock reads nothing that is tracked: HINCRBY reads a field without it, and the record's time is set unseen.
pub(in crate::store::redis) const LOCK: &str = script!(
    "\
local time = redis.call('TIME') \
local us = time[1] * 1000000 + time[2] \
local ms = math.floor(us / 1000) \
local waits, turn, counts, ahead = tonumber(ARGV[5]), us, ms, nil \
local function look() \
local all = redis.pcall('HGETALL', KEYS[2]) \
if all.err then return all end \
local mine, others = nil, {} \
for at = 1, #all, 2 do \
if string.sub(all[at], 1, 2) == 'q:' then \
local who, from, over = string.sub(all[at], 3), place(all[at + 1]) \
if not over or over <= ms then redis.call('HDEL', KEYS[2], all[at]) \
elseif who == ARGV[1] then mine = from counts = over \
else others[#others + 1] = {from, over, who} \
if from >= turn then turn = from + 1 end end end end \
if mine then turn = mine end \
for _, one in ipairs(others) do \
if (one[1] < turn or (one[1] == turn and one[3] < ARGV[1])) \
and (not ahead or one[2] < ahead) then ahead = one[2] end end end \
if ARGV[4] == '1' then local failed = look() if failed then return failed end end \
local set \
if not ahead then \
set = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) \
if type(set) == 'table' and set.err then return set end \
end \
if not set then \
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held ~= ARGV[1] then \
local left = held and redis.call('PTTL', KEYS[1]) or (ahead or ms) - ms \
if waits > 0 and (ARGV[4] == '1' or held == 'shared') then \
if ARGV[4] ~= '1' then local failed = look() if failed then return failed end end \
if 2 * (counts - ms) < waits then \
local put = redis.pcall('HSET', KEYS[2], 'q:' .. ARGV[1], \
string.format('%.0f %.0f', turn, math.min(ms + waits, 9007199254740991))) \
if type(put) == 'table' then return put end \
if redis.call('PTTL', KEYS[2]) < waits then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end end end \
return {0, left} end \
local known = redis.pcall('HMGET', KEYS[2], 'token', 'id') \
if known.err then return known end \
local token = number(known[1]) \
if token and token > 0 and known[2] == ARGV[1] then return {1, string.format('%.0f', token)} end \
end \
local last = redis.pcall('HINCRBY', KEYS[2], 'token', 0) \
if type(last) == 'table' then \
if not string.find(last.err, 'not an integer', 1, true) then \
if set then redis.call('DEL', KEYS[1]) end return last end \
last = 0 end \
if last >= us and last < 9007199254740991 then us = last + 1 end \
local token = string.format('%.0f', us) \
redis.call('HSET', KEYS[2], 'token', token, 'id', ARGV[1]) \
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'owner', ARGV[3]) else redis.call('HDEL', KEYS[2], 'owner') end \
redis.call('HDEL', KEYS[2], 'q:' .. ARGV[1]) \
local day = '86400000' \
if tonumber(ARGV[2]) > 86400000 then day = ARGV[2] end \
redis.call('PEXPIRE', KEYS[2], day) \
return {1, token}"
);

/// Takes a part of a shared lock. ARGV: the identifier, the lease in milliseconds, how many may hold it at once.
/// Answers 1 if the identifier holds it, else 0 and after how long to ask again (-1: the lock has no end).
pub(in crate::store::redis) const SHARE: &str = script!(
    "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held and held ~= 'shared' then return {0, redis.call('PTTL', KEYS[1])} end \
local all = redis.pcall('HGETALL', KEYS[2]) \
if all.err then return all end \
local time = redis.call('TIME') \
local ms = math.floor(time[1] * 1000 + time[2] / 1000) \
local ends = math.min(ms + ARGV[2], 9007199254740991) \
local count, last, mine, soonest, waits = 0, ends, false, nil, nil \
for at = 1, #all, 2 do \
local kind, over = string.sub(all[at], 1, 2), nil \
if kind == 'r:' then over = held and number(all[at + 1]) \
elseif kind == 'q:' then over = select(2, place(all[at + 1])) end \
if kind == 'r:' or kind == 'q:' then \
if not over or over <= ms then redis.call('HDEL', KEYS[2], all[at]) \
elseif kind == 'q:' then if not waits or over < waits then waits = over end \
elseif string.sub(all[at], 3) == ARGV[1] then mine = true \
else count = count + 1 \
if not soonest or over < soonest then soonest = over end \
if over > last then last = over end end end end \
if mine then return {1} end \
local full = count >= tonumber(ARGV[3]) \
if full or waits then \
if not full or (waits and soonest and waits < soonest) then soonest = waits end \
return {0, (soonest or ms) - ms} end \
local left = string.format('%.0f', last - ms) \
if not held then \
local set = redis.pcall('SET', KEYS[1], 'shared', 'PX', left) \
if set.err then return set end end \
local put = redis.pcall('HSET', KEYS[2], 'r:' .. ARGV[1], string.format('%.0f', ends)) \
if type(put) == 'table' then return put end \
for at = 1, 2 do \
if redis.call('PTTL', KEYS[at]) < last - ms then redis.call('PEXPIRE', KEYS[at], left) end end \
return {1}"
);

/// Gives a lock that is held alone a new expiry. ARGV: the identifier, the milliseconds.
/// Answers 1 if the identifier held it.
pub(in crate::store::redis) const EXTEND: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held ~= ARGV[1] then return 0 end \
redis.call('PEXPIRE', KEYS[1], ARGV[2]) \
local day = '86400000' \
if tonumber(ARGV[2]) > 86400000 then day = ARGV[2] end \
if redis.call('PTTL', KEYS[2]) < tonumber(day) then redis.call('PEXPIRE', KEYS[2], day) end \
return 1";

/// Gives a part of a shared lock a new expiry. ARGV: the identifier, the milliseconds.
/// Answers 1 if the identifier held it.
///
/// The HDEL of nothing is for a server without memory: it refuses the first write of a script that needs some, and
/// a renewal that is refused would lose the lock, although it needs none.
pub(in crate::store::redis) const EXTEND_SHARE: &str = script!(
    "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
local over = redis.pcall('HGET', KEYS[2], 'r:' .. ARGV[1]) \
if type(over) == 'table' then return over end \
over = number(over) \
local time = redis.call('TIME') \
local ms = math.floor(time[1] * 1000 + time[2] / 1000) \
if held ~= 'shared' or not over or over <= ms then return 0 end \
redis.call('HDEL', KEYS[2], '') \
redis.call('HSET', KEYS[2], 'r:' .. ARGV[1], string.format('%.0f', math.min(ms + ARGV[2], 9007199254740991))) \
for at = 1, 2 do \
if redis.call('PTTL', KEYS[at]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[at], ARGV[2]) end end \
return 1"
);

/// Gives a lock back that is held alone, and a place in its queue. ARGV: the identifier.
/// Answers 1 if the identifier held it.
pub(in crate::store::redis) const UNLOCK: &str = "\
redis.pcall('HDEL', KEYS[2], 'q:' .. ARGV[1]) \
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held == ARGV[1] then return redis.call('DEL', KEYS[1]) end \
return 0";

/// Gives a part of a shared lock back: the last one deletes the lock, and of the others the longest says how long it
/// lives. ARGV: the identifier. Answers 1 if the identifier held it.
pub(in crate::store::redis) const UNLOCK_SHARE: &str = script!(
    "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
local all = redis.pcall('HGETALL', KEYS[2]) \
if all.err then return all end \
local time = redis.call('TIME') \
local ms = math.floor(time[1] * 1000 + time[2] / 1000) \
local known, mine, last = false, 0, ms \
for at = 1, #all, 2 do \
if string.sub(all[at], 1, 2) == 'r:' then \
local over = number(all[at + 1]) or 0 \
if string.sub(all[at], 3) == ARGV[1] then \
known = true \
if over > ms then mine = 1 end \
redis.call('HDEL', KEYS[2], all[at]) \
elseif over > last then last = over end end end \
if held ~= 'shared' or not known then return 0 end \
if last == ms then redis.call('DEL', KEYS[1]) \
elseif redis.call('PTTL', KEYS[1]) > last - ms then \
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', last - ms)) end \
return mine"
);

/// Writes a string unless it was written with a larger token. KEYS: the lease, the key, the mark. ARGV: the value, the
/// milliseconds it lives or 0, the token. Answers 1 if it was written.
/// Tokens are compared as text, longer ones last: a number of Lua's holds 53 bits.
pub(in crate::store::redis) const FENCED_SET: &str = "\
local last = redis.pcall('GET', KEYS[3]) \
if type(last) == 'table' then return last end \
last = string.match(last or '', '^0*(%d+)$') \
if last and #last <= 20 and (#last > #ARGV[3] or (#last == #ARGV[3] and last > ARGV[3])) then return 0 end \
local set \
if ARGV[2] == '0' then set = redis.pcall('SET', KEYS[2], ARGV[1]) \
else set = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end \
if set.err then return set end \
if ARGV[2] == '0' then redis.call('SET', KEYS[3], ARGV[3]) \
else local day = '86400000' \
if tonumber(ARGV[2]) > 86400000 then day = ARGV[2] end \
redis.call('SET', KEYS[3], ARGV[3], 'PX', day) end \
redis.call('DEL', KEYS[1]) \
return 1";
