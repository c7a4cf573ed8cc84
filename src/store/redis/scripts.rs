//! All Lua. Scripts are sent whole (`EVAL`): a hundred bytes more on the wire, and nothing that a
//! `SCRIPT FLUSH`, a restart or a failover can take away. `pcall` hands the server's own error code
//! to the caller on every version.

pub(super) mod locks;

/// Takes a lock. KEYS: the lock. ARGV: the identifier, the lease in milliseconds.
/// Answers 1 if the lock now holds the identifier, so that it may be sent again.
pub(super) const ACQUIRE: &str = "\
local set = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) \
if type(set) == 'table' and set.err then return set end \
if set then return 1 end \
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held == ARGV[1] then return 1 end \
return 0";

/// Gives a lock back. KEYS: the lock. ARGV: the identifier.
/// Answers 1 if the lock held the identifier and is deleted.
pub(super) const RELEASE: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held == ARGV[1] then return redis.call('DEL', KEYS[1]) end \
return 0";

/// Gives a lock or lease a new expiry. KEYS: it. ARGV: the identifier, the milliseconds.
/// Answers 1 if it held the identifier.
pub(super) const RENEW: &str = "\
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end \
return 0";

/// Deletes keys, and their leases before them. KEYS: the leases, then as many keys. Answers how many
/// keys existed.
pub(super) const DELETE: &str = "\
local half = #KEYS / 2 \
for at = 1, half do redis.call('DEL', KEYS[at]) end \
local gone = 0 \
for at = half + 1, #KEYS do gone = gone + redis.call('DEL', KEYS[at]) end \
return gone";

/// Writes a string and deletes its lease before. KEYS: the lease, the key. ARGV: the value, the milliseconds it
/// lives or 0. Answers what SET answers: if that is refused, the lease is left alone.
pub(super) const OVERWRITE: &str = "\
local set \
if ARGV[2] == '0' then set = redis.pcall('SET', KEYS[2], ARGV[1]) \
else set = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end \
if set.err then return set end \
redis.call('DEL', KEYS[1]) \
return set";

/// Reads a string, and takes its lease if that is asked for. KEYS: the lease, the key. ARGV: the token, the lease in
/// milliseconds, and which remaining time of the key is short enough to ask: -1 for none, or `always`.
/// Answers the value (or nil), its PTTL, and 0 (not asked), 1 (granted, with the digest of the
/// value or an empty one) or 2 (held by another, with the PTTL of the lease). What it reads with GET
/// is tracked for the connection that asks.
pub(super) const LEASE: &str = "\
local value = redis.pcall('GET', KEYS[2]) \
if type(value) == 'table' then return value end \
local left = redis.call('PTTL', KEYS[2]) \
if value and ARGV[3] ~= 'always' and (left < 0 or left > tonumber(ARGV[3])) then \
return {value, left, 0, 0} end \
local set = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) \
if type(set) == 'table' and set.err then return set end \
local held = redis.pcall('GET', KEYS[1]) \
if type(held) == 'table' then return held end \
if held == ARGV[1] then \
return {value, left, 1, value and redis.sha1hex(value) or ''} end \
return {value, left, 2, redis.call('PTTL', KEYS[1])}";

/// Writes what a load gave. KEYS: the lease, the key. ARGV: the token, the value, the milliseconds it lives or 0;
/// of a refresh also the digest of what it replaces, its PTTL then, and 1 if it must have expired.
/// Answers 1 and nothing more if it was written, else 0, what stands there (or nil) and its PTTL.
pub(super) const FILL: &str = "\
local mine = redis.pcall('GET', KEYS[1]) == ARGV[1] \
local now = redis.pcall('GET', KEYS[2]) \
if type(now) == 'table' then \
if mine then redis.call('DEL', KEYS[1]) end \
return now end \
local left = redis.call('PTTL', KEYS[2]) \
local same \
if now then \
local was = tonumber(ARGV[5] or '-2') \
same = ARGV[4] == redis.sha1hex(now) and (left == was or (left >= 0 and left <= was)) \
else same = ARGV[6] ~= '0' end \
if not mine or not same then \
if mine then redis.call('DEL', KEYS[1]) end \
return {0, now, left} end \
local set \
if ARGV[3] == '0' then set = redis.pcall('SET', KEYS[2], ARGV[2]) \
else set = redis.pcall('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end \
redis.call('DEL', KEYS[1]) \
if set.err then return set end \
return {1}";
