//! All Lua. Scripts are sent whole (`EVAL`): a hundred bytes more on the wire, and nothing that a
//! `SCRIPT FLUSH`, a restart or a failover can take away. `pcall` hands the server's own error code
//! to the caller on every version.

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
